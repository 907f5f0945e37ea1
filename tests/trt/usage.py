"""Which names of TensorRT a Python file uses: read from its source, so that no list of them can go stale."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MODULES = ("trt", "tensorrt")


def members(surface: dict) -> set[str]:
    """All names of a surface: `Class`, `Class.member`, `Enum.member`, functions and data types."""
    names = {
        "__version__",
        *surface["functions"],
        *surface["aliases"],
        *surface["classes"],
        *surface["enums"],
    }
    names |= {f"{enum}.{member}" for enum, found in surface["enums"].items() for member in found}
    for name, told in surface["classes"].items():
        for one in (told, *(surface["classes"][base] for base in told["bases"])):
            names |= {
                f"{name}.{member}" for part in ("methods", "properties", "nested") for member in one[part]
            }
            for enum, found in one["nested"].items():
                names |= {f"{name}.{member}" for member in found}
                names |= {f"{name}.{enum}.{member}" for member in found}
    return names


def used_names(source: Path, surface: dict) -> set[str]:
    """What a file reaches of the module `trt` or `tensorrt` and of the objects that it gets from it.

    Types follow assignments, annotations, and what the surface says that methods return. One name is taken to hold
    one type in the whole file, be it a variable, a parameter or an attribute. Names that do not exist are given too,
    for a test to refuse.
    """
    reader = Reader(surface)
    tree = ast.parse(source.read_text("utf-8"))
    known = -1
    while known != len(reader.types):  # what is known of one name may tell another
        known = len(reader.types)
        reader.visit(tree)
    return reader.found


class Reader(ast.NodeVisitor):
    """Goes through a file, and notes what it finds of types and names.

    A type is a pair: module, class, enum, object or method, and the name of the class or enum; for an object that of
    its class, for a method that of what it returns.
    """

    def __init__(self, surface: dict):
        self.surface, self.found = surface, set()
        self.types: dict[str, tuple[str, str]] = {}

    def type_of(self, node: ast.expr | None) -> tuple[str, str] | None:
        if isinstance(node, ast.Name):
            return ("module", "") if node.id in MODULES else self.types.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.type_of(node.value)
            if owner is None:
                return ("module", "") if node.attr in MODULES else self.types.get(node.attr)
            return self.member_of(owner, node.attr)
        if isinstance(node, ast.Call):
            kind, name = self.type_of(node.func) or self.given_class(node)
            return (
                ("object", name) if kind in ("class", "method") and name in self.surface["classes"] else None
            )
        if isinstance(node, ast.NamedExpr):
            return self.type_of(node.value)
        return None

    def given_class(self, call: ast.Call) -> tuple[str, str]:
        """Of a function of our own that is given a class and calls it, as in `started(trt.Builder, logger)`."""
        given = [self.type_of(one) or ("", "") for one in call.args]
        return next((one for one in given if one[0] == "class"), ("", ""))

    def member_of(self, owner: tuple[str, str], attribute: str) -> tuple[str, str] | None:
        """The type of an attribute of something known."""
        kind, name = owner
        if kind == "method":
            return None
        self.found.add(f"{name}.{attribute}".lstrip("."))
        if kind == "module":
            if attribute in self.surface["classes"]:
                return "class", attribute
            return ("enum", attribute) if attribute in self.surface["enums"] else None
        told = self.surface["classes"].get(name)
        if told is None:
            return None
        if attribute in told["nested"]:
            return "enum", f"{name}.{attribute}"
        if attribute in told["properties"]:
            return "object", class_named(told["properties"][attribute]["type"])
        if attribute in told["methods"]:
            return "method", class_named(told["methods"][attribute][0].rpartition(" -> ")[2])
        return None

    def hold(self, target: ast.expr, found: tuple[str, str] | None) -> None:
        name = {ast.Name: "id", ast.Attribute: "attr"}.get(type(target))
        if found is not None and name is not None:
            self.types.setdefault(getattr(target, name), found)

    def annotated(self, annotation: ast.expr | None) -> tuple[str, str] | None:
        """The object that an annotation names, the text of one included."""
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            annotation = ast.parse(annotation.value, mode="eval").body
        if isinstance(annotation, ast.BinOp):
            return self.annotated(annotation.left) or self.annotated(annotation.right)
        kind, name = self.type_of(annotation) or (None, "")
        return ("object", name) if kind == "class" else None

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.type_of(node)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self.hold(target, self.type_of(node.value))
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.hold(node.target, self.annotated(node.annotation) or self.type_of(node.value))
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.hold(node.target, self.type_of(node.value))
        self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        self.hold(ast.Name(node.arg), self.annotated(node.annotation))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        returned = [self.type_of(one.value) for one in ast.walk(node) if isinstance(one, ast.Return)]
        known = self.annotated(node.returns) or next(filter(None, returned), None)
        if known is not None and known[0] == "object":
            self.types.setdefault(node.name, ("method", known[1]))
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """A subclass of theirs: what it overrides is used."""
        for base in node.bases:
            kind, name = self.type_of(base) or (None, "")
            if kind == "class":
                own = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
                self.found |= {f"{name}.{one}" for one in own & set(self.surface["classes"][name]["methods"])}
        self.generic_visit(node)


def class_named(kind: str) -> str:
    """`nvonnxparser::IParserError` is the class ParserError."""
    name = re.split(r"::|\.", kind)[-1]
    return "ParserError" if name == "IParserError" else name
