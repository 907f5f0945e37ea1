"""Reads from the source of a Python file which names of TensorRT it uses, so that no list needs to be maintained."""

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
    names |= {f"{enum}.{member}" for enum, values in surface["enums"].items() for member in values}
    for name, entry in surface["classes"].items():
        for one in (entry, *(surface["classes"][base] for base in entry["bases"])):
            names |= {
                f"{name}.{member}" for part in ("methods", "properties", "nested") for member in one[part]
            }
            for enum, values in one["nested"].items():
                names |= {f"{name}.{member}" for member in values}
                names |= {f"{name}.{enum}.{member}" for member in values}
    return names


def used_names(source: Path, surface: dict) -> set[str]:
    """The names that a file uses of the module `trt` or `tensorrt` and of its objects.

    Types follow from assignments, annotations, and the return types in the surface. A name is assumed to have one type
    in the whole file, as a variable, a parameter or an attribute. The result includes names that do not exist, for a
    test to refuse.
    """
    reader = Reader(surface)
    tree = ast.parse(source.read_text("utf-8"))
    count = -1
    while count != len(reader.types):  # the type of one name may determine that of another
        count = len(reader.types)
        reader.visit(tree)
    return reader.names


class Reader(ast.NodeVisitor):
    """Visits a file and collects types and names.

    A type is a pair: module, class, enum, object or method, and the name of the class or enum; for an object the name
    of its class, for a method the name of the class that it returns.
    """

    def __init__(self, surface: dict):
        self.surface, self.names = surface, set()
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
            kind, name = self.type_of(node.func) or self.class_argument(node)
            return (
                ("object", name) if kind in ("class", "method") and name in self.surface["classes"] else None
            )
        if isinstance(node, ast.NamedExpr):
            return self.type_of(node.value)
        return None

    def class_argument(self, call: ast.Call) -> tuple[str, str]:
        """The class that is passed to a function of our own, which calls it, as in `create(trt.Builder, logger)`."""
        arguments = [self.type_of(one) or ("", "") for one in call.args]
        return next((one for one in arguments if one[0] == "class"), ("", ""))

    def member_of(self, owner: tuple[str, str], attribute: str) -> tuple[str, str] | None:
        """The type of an attribute of an owner whose type is known."""
        kind, name = owner
        if kind == "method":
            return None
        self.names.add(f"{name}.{attribute}".lstrip("."))
        if kind == "module":
            if attribute in self.surface["classes"]:
                return "class", attribute
            return ("enum", attribute) if attribute in self.surface["enums"] else None
        entry = self.surface["classes"].get(name)
        if entry is None:
            return None
        if attribute in entry["nested"]:
            return "enum", f"{name}.{attribute}"
        if attribute in entry["properties"]:
            return "object", class_named(entry["properties"][attribute]["type"])
        if attribute in entry["methods"]:
            return "method", class_named(entry["methods"][attribute][0].rpartition(" -> ")[2])
        return None

    def record(self, target: ast.expr, kind: tuple[str, str] | None) -> None:
        name = {ast.Name: "id", ast.Attribute: "attr"}.get(type(target))
        if kind is not None and name is not None:
            self.types.setdefault(getattr(target, name), kind)

    def annotated(self, annotation: ast.expr | None) -> tuple[str, str] | None:
        """The object that an annotation names; the annotation may be a string."""
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
            self.record(target, self.type_of(node.value))
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.record(node.target, self.annotated(node.annotation) or self.type_of(node.value))
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.record(node.target, self.type_of(node.value))
        self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        self.record(ast.Name(node.arg), self.annotated(node.annotation))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        returned = [self.type_of(one.value) for one in ast.walk(node) if isinstance(one, ast.Return)]
        returned_type = self.annotated(node.returns) or next(filter(None, returned), None)
        if returned_type is not None and returned_type[0] == "object":
            self.types.setdefault(node.name, ("method", returned_type[1]))
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """A subclass of a TensorRT class uses the methods that it overrides."""
        for base in node.bases:
            kind, name = self.type_of(base) or (None, "")
            if kind == "class":
                own = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
                self.names |= {f"{name}.{one}" for one in own & set(self.surface["classes"][name]["methods"])}
        self.generic_visit(node)


def class_named(kind: str) -> str:
    """`nvonnxparser::IParserError` is the class ParserError."""
    name = re.split(r"::|\.", kind)[-1]
    return "ParserError" if name == "IParserError" else name
