"""OpenCV's FileStorage, YAML and XML (OpenCV documentation, "File Input and Output using XML / YAML / JSON files").

Parsed here and not by cv2.FileStorage, which may abort the whole process on damaged input. All scalars stay text:
a camera called 01 keeps its zero, and numbers are converted where numbers are expected.
"""

import math
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import yaml

from mousefacelift.base.errors import UserError


class _Loader(yaml.BaseLoader):
    """Text, lists, tables and OpenCV's matrices; every other tag, and every alias, is refused."""

    # Aliases make a file of a few lines expand to gigabytes; FileStorage has none.
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(
                None, None, "aliases (*name) are refused", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)


def _matrix(loader: _Loader, node: yaml.Node) -> np.ndarray:
    return matrix(_table(loader, node))


def _table(loader: _Loader, node: yaml.Node) -> dict[str, Any]:
    table: dict[str, Any] = {}
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(None, None, "expected a table", node.start_mark)
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str) or key in table:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} twice, or not text", key_node.start_mark)
        table[key] = loader.construct_object(value_node, deep=True)
    return table


def _text(loader: _Loader, node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "expected text", node.start_mark)
    return str(loader.construct_scalar(node))


def _list(loader: _Loader, node: yaml.Node) -> list[Any]:
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.constructor.ConstructorError(None, None, "expected a list", node.start_mark)
    return [loader.construct_object(child, deep=True) for child in node.value]


def _refuse(loader: _Loader, node: yaml.Node) -> Any:
    raise yaml.constructor.ConstructorError(None, None, f"the tag {node.tag!r} is refused", node.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:str", _text)
_Loader.add_constructor("tag:yaml.org,2002:seq", _list)
_Loader.add_constructor("tag:yaml.org,2002:map", _table)
_Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", _matrix)
_Loader.add_constructor("tag:yaml.org,2002:opencv-nd-matrix", _matrix)
_Loader.add_constructor(None, _refuse)


def load_yaml(text: str, where: str) -> Any:
    """FileStorage's YAML dialect, or plain YAML: dicts, lists, text and float64 matrices."""
    # "%YAML:1.0" is OpenCV's own spelling of the directive "%YAML 1.0".
    text = re.sub(r"\A%YAML[: ][\d.]+[ \t]*", "", text)
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise UserError(f"{where}: damaged YAML: nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{where}: refused or damaged YAML: {error.problem or error}{line}") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: damaged YAML ({str(error)[:300]})") from None


def load_xml(text: str, where: str) -> Any:
    """FileStorage's XML: the children of <opencv_storage> as dicts, lists, text and float64 matrices."""
    # Entities make a file of a few lines expand to gigabytes, or name other files; FileStorage has none.
    if re.search(r"<!(?!--)", text):
        raise UserError(f"{where}: XML with a document type, entities or CDATA is refused; FileStorage writes none")
    try:
        root = ElementTree.fromstring(text)
        return _element(root)
    except RecursionError:
        raise UserError(f"{where}: damaged XML: nested too deeply") from None
    except (ElementTree.ParseError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{where}: damaged XML ({str(error)[:300]})") from None


def _element(element: ElementTree.Element) -> Any:
    children = list(element)
    if not children:
        text = (element.text or "").strip()
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
    if all(child.tag == "_" for child in children):
        return [_element(child) for child in children]
    table = {child.tag: _element(child) for child in children}
    if len(table) < len(children):
        raise ValueError(f"an element occurs twice in <{element.tag}>")
    return matrix(table) if element.get("type_id") in ("opencv-matrix", "opencv-nd-matrix") else table


def matrix(table: dict[str, Any]) -> np.ndarray:
    """An opencv-matrix (rows, cols, dt, data) or opencv-nd-matrix (sizes, dt, data) as a float64 array.

    OpenCV 5 writes vectors as the latter. Several channels become the last axis.
    """
    missing = {"dt", "data"} - set(table) if "sizes" in table else {"rows", "cols", "dt", "data"} - set(table)
    if missing:
        raise ValueError(f"an opencv-matrix lacks {', '.join(sorted(missing))}")
    kind = re.fullmatch(r"(\d{0,3})[ucwsifdh]", str(table["dt"]))
    if kind is None:
        raise ValueError(f"an opencv-matrix of unknown type {str(table['dt'])[:20]!r}")
    sizes = _words(table["sizes"]) if "sizes" in table else [table["rows"], table["cols"]]
    shape = [int(size) for size in sizes[:32]] + ([int(kind[1])] if kind[1] else [])
    data = _words(table["data"])
    if min(shape, default=0) < 0 or len(data) != math.prod(shape):
        raise ValueError(f"an opencv-matrix of {'x'.join(map(str, shape))} numbers holds {len(data)}")
    # OpenCV writes .Nan and .Inf.
    values = [float(text.replace(".Nan", "nan").replace(".Inf", "inf")) for text in data]
    return np.array(values, np.float64).reshape(shape)


def _words(value: Any) -> list[str]:
    """A list as YAML has it, or XML's words."""
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError("an opencv-matrix whose data are not a list of numbers")
    return words
