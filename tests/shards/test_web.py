"""Shards behind a real web server train as local ones do."""

import shutil
import socket
import subprocess
import time

import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.config.evaluate import Evaluate
from mousefacelift.config.presets import PRESETS
from mousefacelift.config.train import Train
from mousefacelift.models.gslrm import GSLRMConfig
from mousefacelift.shards.exports.facelift import export_facelift
from mousefacelift.stages.evaluate import evaluate
from mousefacelift.stages.train import train
from support.balls import write_shards
from support.presets import preset_of
from support.tables import metrics_of

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx-light)")
SETTINGS = Train(
    preset="tiny", guide="none", image_size=32, steps=12, batch_size=2, learning_rate=3e-3, warmup_steps=2, accelerator="cpu",
    checkpoint_every=4, val_every=6, log_every=1, container="tar", shuffle_buffer=3, augment=True,
)  # fmt: skip


@pytest.fixture(autouse=True)
def micro_model(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", preset_of(GSLRMConfig(width=32, head_width=16, layers=1, scale_bias=-3.0)))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The folder of three training shards and one of each other split."""
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [("train", 3), ("train", 2), ("train", 4), ("val", 2), ("test", 2)])
    return folder


@pytest.fixture(scope="module")
def site(shards, tmp_path_factory):
    """The address of nginx serving the shards' folder on loopback."""
    folder = tmp_path_factory.mktemp("nginx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "nginx.conf").write_text(
        f"""daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
        {"user root;" if shards.owner() == "root" else ""}
        events {{}}
        http {{
            access_log {folder}/access.log;
            client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
            uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
            server {{ listen 127.0.0.1:{port}; root {shards}; }}
        }}"""
    )
    server = subprocess.Popen([NGINX, "-c", str(folder / "nginx.conf"), "-p", str(folder)])
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            pytest.fail(f"nginx does not answer: {(folder / 'error.log').read_text()}")
        yield f"http://127.0.0.1:{port}", folder / "access.log"
    finally:
        server.terminate()
        server.wait()


def run(manifest, folder, settings=SETTINGS):
    """Train; the weights' bytes and the rows of metrics."""
    train(manifest, folder / "out", folder / "checkpoints", settings, threads=1)
    return (folder / "out" / "model.safetensors").read_bytes(), metrics_of(folder / "out")


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_behind_nginx_train_to_the_same_weights_as_local_ones(shards, site, tmp_path, workers):
    url, log = site
    settings = SETTINGS.model_copy(update={"workers": workers})
    local = run(shards / "manifest.json", tmp_path / "local", settings)
    remote = run(f"{url}/manifest.json", tmp_path / "remote", settings)
    assert local == remote
    served = log.read_text()
    assert all(f"GET /train/ball-000{i}.tar" in served for i in range(3))
    assert "GET /train/ball-0000.h5" not in served


def test_a_model_is_evaluated_on_shards_behind_nginx(shards, site, tmp_path):
    run(shards / "manifest.json", tmp_path)
    settings = Evaluate(pictures=0, splats=0, turntable_frames=0)
    for name, manifest in (("local", shards / "manifest.json"), ("remote", f"{site[0]}/manifest.json")):
        evaluate(manifest, tmp_path / "out", tmp_path / name, settings, threads=1)
    assert (tmp_path / "local" / "metrics.tsv").read_bytes() == (tmp_path / "remote" / "metrics.tsv").read_bytes()


def test_shards_behind_nginx_are_exported(site, tmp_path):
    export_facelift(f"{site[0]}/manifest.json", tmp_path / "facelift")
    assert len(list(tmp_path.glob("facelift/*/*/opencv_cameras.json"))) == 13


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_shard_is_refused_before_a_sample_of_it_is_seen(shards, site, tmp_path, number, workers):
    """A digit of a focal length and the padding at the end: neither PNG nor tar would notice."""
    url, _ = site
    tar = shards / "train" / f"ball-000{number}.tar"
    content = tar.read_bytes()
    place = content.index(b'"fx":') + 6
    digit = b"1" if content[place : place + 1] != b"1" else b"2"
    try:
        for changed in (content[:place] + digit + content[place + 1 :], content[:-1] + b"x"):
            tar.write_bytes(changed)
            with pytest.raises(
                UserError, match=rf"{url}/train/ball-000{number}\.tar: not the file that the manifest lists"
            ):
                run(f"{url}/manifest.json", tmp_path / "changed", SETTINGS.model_copy(update={"workers": workers}))
    finally:
        tar.write_bytes(content)
    assert not (tmp_path / "changed" / "out" / "model.safetensors").exists()


def test_a_shard_that_the_server_lacks_stops_the_training(shards, site, tmp_path):
    url, _ = site
    tar = shards / "train" / "ball-0001.tar"
    content = tar.read_bytes()
    tar.unlink()
    try:
        with pytest.raises(UserError, match=rf"{url}/train/ball-0001\.tar: the server says 404 Not Found"):
            run(f"{url}/manifest.json", tmp_path / "missing", SETTINGS.model_copy(update={"workers": 1}))
    finally:
        tar.write_bytes(content)


def test_a_manifest_that_the_server_lacks_is_named_at_once(site, tmp_path):
    with pytest.raises(UserError, match=r"/nothing\.json: the server says 404"):
        run(f"{site[0]}/nothing.json", tmp_path)
