"""Calibration files of every format, made from a known rig by the formats' documentation and their own libraries."""

import json
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import h5py
import numpy as np
import scipy.io

from support.rigs import Truth, rig

ONE_BASED = np.array([[0, 0, 1.0], [0, 0, 1], [0, 0, 0]])


def is_rotation(R):
    return R.shape == (3, 3) and np.isfinite(R).all() and np.allclose(R @ R.T, np.eye(3)) and np.linalg.det(R) > 0


def rotation_vector(R):
    """A rotation vector; what is no rotation is written as the matrix it is."""
    return cv2.Rodrigues(R)[0].ravel() if is_rotation(R) else R


def quaternion(R):
    """w x y z; what is no rotation as a quaternion of another length."""
    if not is_rotation(R):
        return np.array([0.9, 0.9, 0.9, 0.9]) * (1 if np.isfinite(R).all() else np.nan)
    vector = cv2.Rodrigues(R)[0].ravel()
    angle = np.linalg.norm(vector)
    return np.array([np.cos(angle / 2), *(np.sin(angle / 2) * vector / angle)])


# --- MATLAB ----------------------------------------------------------------------------------------------------------


def dannce_table(truth):
    one_based = truth.K + ONE_BASED if truth.K.shape == (3, 3) else truth.K
    k1, k2, p1, p2, k3 = truth.dist
    return {"K": one_based.T, "RDistort": np.array([[k1, k2, k3]]), "TDistort": np.array([[p1, p2]]),
            "r": truth.R.T, "t": truth.t[None]}  # fmt: skip


def dannce(folder, truths):
    for truth in truths:
        scipy.io.savemat(folder / f"{truth.name}_params.mat", dannce_table(truth), do_compression=True)
    return {truth.name: folder / f"{truth.name}_params.mat" for truth in truths}


def cell(values, shape=None):
    made = np.empty((len(values), 1), object)
    for i, value in enumerate(values):
        made[i, 0] = value
    return made.reshape(shape or made.shape)


def label3d(folder, truths, key="params"):
    content = {
        key: cell([dannce_table(truth) for truth in truths]),
        "camnames": cell([truth.name for truth in truths], (1, -1)),
        "sync": cell([{"data_frame": np.arange(100), "data_sampleID": np.arange(100) * 10 + 1} for _ in truths]),
        # Larger than any calibration: a reader need not, and should not, unpack it.
        "labelData": np.zeros((3000, 300)),
    }
    scipy.io.savemat(folder / "session_dannce.mat", content, do_compression=True)
    return folder / "session_dannce.mat"


def cam_params(folder, truths):
    return label3d(folder, truths, "camParams")


def rat7m(folder, truths):
    cameras = {}
    for truth in truths:
        table = dannce_table(truth)
        cameras[truth.name] = {
            "IntrinsicMatrix": table["K"],
            "rotationMatrix": table["r"],
            "translationVector": table["t"],
            "RadialDistortion": table["RDistort"],
            "TangentialDistortion": table["TDistort"],
        }
    scipy.io.savemat(folder / "mocap-s1-d1.mat", {"cameras": cameras, "mocap": {"SpineF": np.zeros((5, 3))}})
    return folder / "mocap-s1-d1.mat"


def label3d_73(folder, truths):
    """As `save -v7.3` lays it out: column order, cells as references into #refs#, text as UTF-16 code units."""
    path = folder / "session73_dannce.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        refs = file.create_group("#refs#")

        def put(parent, name, value):
            if isinstance(value, dict):
                group = parent.create_group(name)
                group.attrs["MATLAB_class"] = np.bytes_("struct")
                for key, entry in value.items():
                    put(group, key, entry)
                return group
            if isinstance(value, str):
                made = parent.create_dataset(name, data=np.array([[ord(c)] for c in value], np.uint16))
                made.attrs["MATLAB_class"] = np.bytes_("char")
                return made
            made = parent.create_dataset(name, data=np.asarray(value, np.float64).T)
            made.attrs["MATLAB_class"] = np.bytes_("double")
            return made

        def put_cell(name, values):
            targets = [put(refs, f"{name}{i}", value) for i, value in enumerate(values)]
            data = np.array([[target.ref for target in targets]], h5py.ref_dtype)
            file.create_dataset(name, data=data, dtype=h5py.ref_dtype).attrs["MATLAB_class"] = np.bytes_("cell")

        put_cell("params", [dannce_table(truth) for truth in truths])
        put_cell("camnames", [truth.name for truth in truths])
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    with path.open("r+b") as handle:
        handle.write(header)
    return path


# --- pickle, HDF5 ----------------------------------------------------------------------------------------------------


def mammal(folder, truths, transpose_K=False, transpose_R=False, protocol=4, as_dict=False, column=False):
    tables = [
        {
            "K": np.ascontiguousarray(truth.K.T if transpose_K else truth.K),
            "R": np.ascontiguousarray(truth.R.T if transpose_R else truth.R),
            "T": truth.t[:, None] if column else truth.t,
        }
        for truth in truths
    ]
    (folder / "new_cam.pkl").write_bytes(pickle.dumps(dict(enumerate(tables)) if as_dict else tables, protocol))
    return folder / "new_cam.pkl"


def multicam_h5(folder, truths):
    with h5py.File(folder / "camera_params.h5", "w") as file:
        group = file.create_group("camera_parameters")
        group["intrinsic"] = np.stack([truth.K for truth in truths])
        group["rotation"] = np.stack([truth.R for truth in truths])
        group["translation"] = np.stack([truth.t for truth in truths])
        group["dist_coefs"] = np.stack([truth.dist for truth in truths])
        group["camera_names"] = np.array([truth.name for truth in truths], h5py.string_dtype())
    return folder / "camera_params.h5"


# --- JSON ------------------------------------------------------------------------------------------------------------


def save_json(path, content):
    path.write_text(json.dumps(content, indent=1))
    return path


def multicam_json(folder, truths):
    content = {
        truth.name: {"R": truth.R.tolist(), "T": truth.t[:, None].tolist(), "camera_matrix": truth.K.tolist(),
                     "distortion_coefs": truth.dist.tolist()}
        for truth in truths
    }  # fmt: skip
    return save_json(folder / "calibration.json", content)


def opencv_json(folder, truths):
    content = {
        "convention": "OpenCV: x_cam=R@X+t, +X right +Y down +Z fwd, pixel centre of first pixel=(0,0); units mm",
        "cameras": {
            truth.name: {"K": truth.K.tolist(), "dist_k1k2p1p2k3": truth.dist.tolist(), "R": truth.R.tolist(),
                         "t": truth.t.tolist(), "size": list(truth.size)}
            for truth in truths
        },
    }  # fmt: skip
    return save_json(folder / "rig.opencv.json", content)


def corner_intrinsics(truth):
    """fx, fy, cx, cy with the first pixel's centre at (0.5, 0.5); what is no 3x3 matrix becomes text."""
    if truth.K.shape != (3, 3):
        return truth.K.tolist(), "wide", None, None
    return truth.K[0, 0], truth.K[1, 1], truth.K[0, 2] + 0.5, truth.K[1, 2] + 0.5


def w2c(truth):
    return np.vstack([np.hstack([truth.R, truth.t[:, None]]), [0, 0, 0, 1]])


def transforms(folder, truths):
    frames = []
    for truth in truths:
        c2w = np.eye(4)
        c2w[:3, :3], c2w[:3, 3] = truth.R.T, -truth.R.T @ truth.t
        c2w = c2w @ np.diag([1.0, -1, -1, 1])  # OpenGL: y up, z backwards
        fx, fy, cx, cy = corner_intrinsics(truth)
        k1, k2, p1, p2, k3 = truth.dist.tolist()
        frames.append(
            {"file_path": f"./images/{truth.name}.png", "transform_matrix": c2w.tolist(), "fl_x": fx, "fl_y": fy,
             "cx": cx, "cy": cy, "k1": k1, "k2": k2, "p1": p1, "p2": p2, "k3": k3, "w": float(truth.size[0]), "h": truth.size[1]}
        )  # fmt: skip
    return save_json(folder / "transforms.json", {"camera_model": "OPENCV", "frames": frames})


def facelift(folder, truths):
    frames = []
    for truth in truths:
        fx, fy, cx, cy = corner_intrinsics(truth)
        frames.append(
            {"w": truth.size[0], "h": truth.size[1], "fx": fx, "fy": fy, "cx": cx, "cy": cy, "w2c": w2c(truth).tolist(),
             "file_path": f"images/{truth.name}.png"}
        )  # fmt: skip
    return save_json(folder / "opencv_cameras.json", {"id": "sample_000", "frames": frames})


# --- TOML, YAML, XML -------------------------------------------------------------------------------------------------


def anipose(folder, truths):
    lines = []
    for i, truth in enumerate(truths):
        lines += [
            f"[cam_{i}]",
            f'name = "{truth.name}"',
            f"size = [ {truth.size[0]}, {truth.size[1]},]",
            f"matrix = {truth.K.tolist()}",
            f"distortions = {truth.dist.tolist()}",
            f"rotation = {rotation_vector(truth.R).tolist()}",
            f"translation = {truth.t.tolist()}",
            "",
        ]
    (folder / "calibration.toml").write_text("\n".join([*lines, "[metadata]", "adjusted = false", "error = 0.4", ""]))
    return folder / "calibration.toml"


def storage(path, entries):
    file = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for key, value in entries.items():
        if isinstance(value, list):
            file.startWriteStruct(key, cv2.FILE_NODE_SEQ)
            for entry in value:
                file.write("", entry)
            file.endWriteStruct()
        elif isinstance(value, dict):
            file.startWriteStruct(key, cv2.FILE_NODE_MAP)
            for inner, entry in value.items():
                file.write(inner, entry)
            file.endWriteStruct()
        else:
            file.write(key, value)
    file.release()
    return path


def jarvis(folder, truths):
    return {
        truth.name: storage(
            folder / f"{truth.name}.yaml",
            {"intrinsicMatrix": np.ascontiguousarray(truth.K.T), "distortionCoefficients": truth.dist[None],
             "R": np.ascontiguousarray(truth.R.T), "T": truth.t[:, None]},
        )
        for truth in truths
    }  # fmt: skip


def easymocap(folder, truths, extrinsic_truths=None):
    intrinsics, extrinsics = {"names": [truth.name for truth in truths]}, {}
    for truth in truths:
        intrinsics |= {f"K_{truth.name}": truth.K, f"dist_{truth.name}": truth.dist[None]}
        intrinsics |= {f"H_{truth.name}": truth.size[1], f"W_{truth.name}": truth.size[0]}
    extrinsics["names"] = [truth.name for truth in extrinsic_truths or truths]
    for truth in extrinsic_truths or truths:
        if is_rotation(truth.R):
            extrinsics[f"R_{truth.name}"] = rotation_vector(truth.R)[:, None]
        extrinsics |= {f"Rot_{truth.name}": truth.R, f"T_{truth.name}": truth.t[:, None]}
    storage(folder / "intri.yml", intrinsics)
    storage(folder / "extri.yml", extrinsics)
    return folder


def storage_table(truth):
    return {"image_width": truth.size[0], "image_height": truth.size[1], "camera_matrix": truth.K,
            "distortion_coefficients": truth.dist[None], "R": truth.R, "T": truth.t[:, None]}  # fmt: skip


def storage_yaml(folder, truths):
    return {truth.name: storage(folder / f"{truth.name}.yml", storage_table(truth)) for truth in truths}


def storage_xml(folder, truths):
    return {truth.name: storage(folder / f"{truth.name}.xml", storage_table(truth)) for truth in truths}


def storage_one_file(folder, truths):
    tables = {}
    for truth in truths:
        rotation = rotation_vector(truth.R)
        tables[truth.name] = {"K": truth.K, "D": truth.dist[:, None], "rvec": rotation if rotation.ndim == 2 else rotation[:, None],
                              "tvec": truth.t[:, None], "image_size": np.array([truth.size], np.int32)}  # fmt: skip
    return storage(folder / "cameras.yaml", tables)


# --- COLMAP ----------------------------------------------------------------------------------------------------------


def colmap_values(truth):
    """The model, its parameters, and the pose. OPENCV ends with p2; only FULL_OPENCV has k3."""
    parameters = [*corner_intrinsics(truth), *truth.dist, 0, 0, 0]
    if None in parameters:
        parameters = [1500.0, 1500.0, 500.0]
    return parameters, [*quaternion(truth.R), *truth.t]


def colmap_text(folder, truths, points=True):
    lenses = ["# Camera list with one line of data per camera:", "#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    images = ["# Image list with two lines of data per image:", f"# Number of images: {len(truths)}"]
    for i, truth in enumerate(truths, 1):
        parameters, pose = colmap_values(truth)
        lenses.append(f"{i} FULL_OPENCV {truth.size[0]} {truth.size[1]} {' '.join(str(float(p)) for p in parameters)}")
        images.append(f"{10 * i} {' '.join(repr(float(p)) for p in pose)} {i} {truth.name}.png")
        images.append("12.5 13.5 -1 700.25 80.5 41" if points and i % 2 else "")
    (folder / "cameras.txt").write_text("\n".join([*lenses, ""]))
    (folder / "images.txt").write_text("\n".join([*images, ""]))
    (folder / "points3D.txt").write_text("# none\n")
    return folder


def colmap_binary(folder, truths):
    lenses, images = [struct.pack("<Q", len(truths))], [struct.pack("<Q", len(truths))]
    for i, truth in enumerate(truths, 1):
        parameters, pose = colmap_values(truth)
        lenses.append(struct.pack(f"<IiQQ{len(parameters)}d", i, 6, *truth.size, *parameters))
        images.append(struct.pack("<I7dI", 10 * i, *pose, i) + f"{truth.name}.png".encode() + b"\0")
        images.append(struct.pack("<QddQ", 1, 12.5, 13.5, 2**64 - 1))
    (folder / "cameras.bin").write_bytes(b"".join(lenses))
    (folder / "images.bin").write_bytes(b"".join(images))
    return folder


# --- All of them -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fixture:
    """format: the reader's name. write: (folder, truths) -> what read_rig takes. What of a camera the format holds.

    rotation: how it holds it: as a matrix, a quaternion or a vector. writes: what of a camera its writer can hold, as arguments of
    test_writing.py's `cameras`; None for a format that is only read.
    """

    format: str
    write: Callable[[Path, list[Truth]], Path | Mapping[str, Path]]
    fields: Mapping[str, str] = field(default_factory=dict)
    skew: bool = True
    dist: bool = True
    size: bool = False
    named: bool = True
    rotation: str = "matrix"
    writes: Mapping[str, object] | None = None

    def truths(self, **options):
        names = {} if self.named else {"names": ("0", "1", "2", "3")}
        return rig(skew=self.skew, dist=self.dist, **names, **options)


MATLAB_FIELDS = {"K": "K", "R": "r", "t": "t", "dist": "RDistort"}
RAT7M_FIELDS = {"K": "IntrinsicMatrix", "R": "rotationMatrix", "t": "translationVector", "dist": "RadialDistortion"}
MULTICAM_FIELDS = {"K": "camera_matrix", "R": "R", "t": "T", "dist": "distortion_coefs"}
STORAGE_FIELDS = {"K": "camera_matrix", "R": "R", "t": "T", "dist": "distortion_coefficients"}
COLMAP_FIELDS = {
    "K": "FULL_OPENCV|line|damaged",
    "R": "quaternion|line|NaN",
    "t": "NaN|image",
    "dist": "NaN|FULL_OPENCV",
}

FIXTURES = {
    "dannce": Fixture("dannce", dannce, MATLAB_FIELDS),
    "label3d": Fixture("dannce", label3d, MATLAB_FIELDS),
    "label3d-7.3": Fixture("dannce", label3d_73, MATLAB_FIELDS),
    "camParams": Fixture("dannce", cam_params, MATLAB_FIELDS),
    "rat7m": Fixture("rat7m", rat7m, RAT7M_FIELDS),
    "mammal": Fixture("mammal", mammal, {"K": "K", "R": "R", "t": "T"}, dist=False, named=False),
    "multicam-hdf5": Fixture("multicam", multicam_h5, {"K": "intrinsic", "R": "rotation", "t": "translation", "dist": "dist_coefs"}),
    "multicam-json": Fixture("multicam", multicam_json, MULTICAM_FIELDS),
    "anipose": Fixture("anipose", anipose, {"K": "matrix", "R": "rotation", "t": "translation", "dist": "distortions"}, size=True, rotation="vector", writes={"skew": False, "count": 5, "fisheye": True}),
    "jarvis": Fixture("jarvis", jarvis, {"K": "intrinsicMatrix", "R": "R", "t": "T", "dist": "distortionCoefficients"}),
    "easymocap": Fixture("easymocap", easymocap, {"K": "K_", "R": "Rot_", "t": "T_", "dist": "dist_"}, size=True),
    "colmap-text": Fixture("colmap", colmap_text, COLMAP_FIELDS, skew=False, size=True, rotation="quaternion", writes={"skew": False, "count": 8, "fisheye": True}),
    "colmap-binary": Fixture("colmap", colmap_binary, COLMAP_FIELDS, skew=False, size=True, rotation="quaternion"),
    "transforms": Fixture("transforms", transforms, {"K": "fl_x", "R": "transform_matrix", "t": "transform_matrix", "dist": "k1|NaN"}, skew=False, size=True, writes={"skew": False, "count": 5, "fisheye": False}),
    "facelift": Fixture("facelift", facelift, {"K": "fx", "R": "w2c", "t": "w2c"}, skew=False, dist=False, size=True, writes={"skew": False, "count": 0, "fisheye": False}),
    "opencv-json": Fixture("opencv-json", opencv_json, {"K": "K", "R": "R", "t": "t", "dist": "dist_k1k2p1p2k3"}, size=True, writes={"skew": True, "count": 14, "fisheye": True, "unknown_size": True}),
    "storage-yaml": Fixture("opencv-storage", storage_yaml, STORAGE_FIELDS, size=True),
    "storage-xml": Fixture("opencv-storage", storage_xml, STORAGE_FIELDS, size=True),
    "storage-one-file": Fixture("opencv-storage", storage_one_file, {"K": "K", "R": "rvec", "t": "tvec", "dist": "D"}, size=True, rotation="vector"),
}  # fmt: skip


def files_of(source):
    """The files that make up a fixture."""
    if isinstance(source, Mapping):
        return list(source.values())
    return [path for path in sorted(source.iterdir()) if path.name != "points3D.txt"] if source.is_dir() else [source]
