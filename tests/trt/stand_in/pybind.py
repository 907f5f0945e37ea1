"""The behavior of pybind11 around C++ classes: checks of arguments, enums that are not ints, no stray attributes.

A public class is a shell, built from the surface. It checks each call and passes it to an `Inner`, a plain object with
the behavior, whose results it wraps in shells again.
"""

from __future__ import annotations

import operator
import sys
import warnings
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import types

    from .surface import Class, Signature

NULLABLE = {"add_optimization_profile": "profile"}
"""Parameters that C++ takes by pointer, so that None is valid. Setters of interfaces, named I..., accept None too."""
NO_NULL_TEXT = {"parse_from_file"}
UNSIGNED = ("flags", "pool_size", "memory", "stream_handle")


class PybindType(type):
    def __call__(cls, *arguments, **keywords):
        instance = super().__call__(*arguments, **keywords)
        if isinstance(instance, Object) and not hasattr(instance, "_inner"):
            base = next(one for one in cls.__mro__ if one.__module__ == "tensorrt")
            raise TypeError(f"tensorrt.{base.__name__}.__init__() must be called when overriding __init__")
        return instance


class Object(metaclass=PybindType):
    """The base of every shell, without `__dict__`: unknown attributes can be set only on a Python subclass."""

    __slots__ = ("__weakref__", "_inner")


class Inner:
    """The behavior of one class of the surface. Its methods get checked arguments without shells."""

    shown: ClassVar[str]

    def __init__(self, trt: types.ModuleType):
        self.trt = trt

    def facade(self) -> Object:
        """The shell around this object, for a caller."""
        kind = getattr(self.trt, self.shown)
        shell = kind.__new__(kind)
        shell._inner = self
        return shell

    def log(self, severity: str, message: str) -> None:
        """Log a message to `self.logger`."""
        self.logger._inner.invoke(self.logger, "log", getattr(self.trt.ILogger.Severity, severity), message)


class Virtual(Inner):
    """A class that Python subclasses override. An exception there, even Ctrl-C, is printed and not propagated."""

    def invoke(self, shell: Object, name: str, *arguments):
        """Call the override, like C++."""
        if getattr(type(shell), name) is getattr(getattr(self.trt, self.shown), name):
            return self.pure(name)
        try:
            return getattr(shell, name)(*arguments)
        except BaseException as error:
            swallow(name, error)
            return None

    def pure(self, name: str) -> None:
        swallow(name, RuntimeError(f'Tried to call pure virtual function "{self.shown}::{name}"'))


def swallow(method: str, error: BaseException) -> None:
    print(f"[ERROR] Exception caught in {method}(): {type(error).__name__}: {error}", file=sys.stderr)


def wrapped(value):
    if isinstance(value, Inner):
        return value.facade()
    return [wrapped(one) for one in value] if isinstance(value, list) else value


def unwrapped(value):
    """The behavior inside a shell; a logger or a monitor stays the caller's object."""
    inner = value._inner if isinstance(value, Object) else None
    return inner if isinstance(inner, Inner) and not isinstance(inner, Virtual) else value


def make_enum(name: str, members: dict[str, int]) -> type:
    """An enum: its members have `name` and `value`, convert to int explicitly, and are not ints themselves."""

    def new(cls, value):
        if not is_whole(value):
            raise TypeError(f"__init__(): incompatible constructor arguments. Invoked with: {value!r}")
        instance = object.__new__(cls)
        object.__setattr__(instance, "_value", int(value))
        return instance

    names = {value: member for member, value in reversed(members.items())}
    namespace = {
        "__slots__": ("_value",),
        "__module__": "tensorrt",
        "__new__": new,
        "name": property(lambda self: names.get(self._value, "???")),
        "value": property(lambda self: self._value),
        "__int__": lambda self: self._value,
        "__index__": lambda self: self._value,
        "__eq__": lambda self, other: type(other) is type(self) and other._value == self._value,
        "__hash__": lambda self: self._value,
        "__repr__": lambda self: f"<{name}.{self.name}: {self._value}>",
        "__str__": lambda self: f"{name}.{self.name}",
    }
    kind = type(name, (), namespace)
    kind.__members__ = {member: kind(value) for member, value in members.items()}
    for member, value in kind.__members__.items():
        setattr(kind, member, value)
    return kind


class Flagged:
    """A class with `flags`, one bit each."""

    def set_flag(self, flag) -> None:
        self.flags |= 1 << int(flag)

    def clear_flag(self, flag) -> None:
        self.flags &= ~(1 << int(flag))

    def get_flag(self, flag) -> bool:
        return bool(self.flags >> int(flag) & 1)


def make_class(
    trt: types.ModuleType, entry: Class, bases: tuple[type, ...], inner: type[Inner] | None
) -> type:
    """The shell of one class. Without an `inner`, nothing of it is modeled."""
    namespace = {"__slots__": (), "__module__": "tensorrt"}
    for name, overloads in entry.methods.items():
        if name == "__enter__":
            namespace[name] = enter
        elif name == "__exit__":
            namespace[name] = lambda self, exc_type, exc_value, traceback: None
        elif name not in ("__init__", "__del__"):
            namespace[name] = make_method(trt, entry.name, name, overloads)
    for name, one in entry.properties.items():
        namespace[name] = make_property(trt, name, one)
    namespace["__init__"] = make_constructor(trt, entry, inner)
    kind = PybindType(entry.name, bases, namespace)
    for name, members in entry.nested.items():
        inherited = next((getattr(base, name) for base in bases if hasattr(base, name)), None)
        setattr(kind, name, inherited or make_enum(name, members))
        for member, value in getattr(kind, name).__members__.items():
            setattr(kind, member, value)
    return kind


def enter(self):
    warnings.warn("Context managers for TensorRT types are deprecated.", DeprecationWarning, stacklevel=2)
    return self


def make_constructor(trt: types.ModuleType, entry: Class, inner: type[Inner] | None):
    def __init__(self, *positional, **keywords):  # noqa: N807
        if not entry.constructible:
            raise TypeError(f"tensorrt.{entry.name}: No constructor defined!")
        overloads = entry.methods["__init__"]
        arguments = checked(trt, entry.name, "__init__", overloads, self, positional, keywords)
        if inner is None:
            raise NotImplementedError(f"the stand-in does not model {entry.name}")
        self._inner = inner(trt, **arguments)

    return __init__


def make_method(trt: types.ModuleType, owner: str, name: str, overloads: tuple[Signature, ...]):
    def method(self, *positional, **keywords):
        arguments = checked(trt, owner, name, overloads, self, positional, keywords)
        if isinstance(self._inner, Virtual):
            override = getattr(getattr(type(self), name), "__code__", None)
            from_override = sys._getframe(1).f_code is override  # by super(): not once more
            return (
                self._inner.pure(name)
                if from_override
                else self._inner.invoke(self, name, *arguments.values())
            )
        return wrapped(modeled(self, name)(**arguments))

    method.__name__ = name
    return method


def make_property(trt: types.ModuleType, name: str, entry) -> property:
    def getter(self):
        return wrapped(modeled(self, name))

    def setter(self, value):
        kind = {"int": "SupportsInt", "float": "SupportsFloat"}.get(entry.kind, entry.kind)
        nothing = value is None and (kind == "str" or kind.startswith("I"))
        if not (nothing or accepts(trt, kind, value)):
            raise TypeError(f"(): incompatible function arguments. Invoked with: {self!r}, {value!r}")
        setattr(self._inner, name, unwrapped(value))

    return property(getter, setter if entry.writable else None)


def modeled(shell: Object, name: str):
    try:
        return getattr(shell._inner, name)
    except AttributeError as error:
        raise NotImplementedError(f"the stand-in does not model {type(shell).__name__}.{name}") from error


def checked(
    trt, owner: str, name: str, overloads: tuple[Signature, ...], shell, positional: tuple, keywords: dict
) -> dict:
    """The arguments by name, for the first overload that takes them."""
    for one in overloads if isinstance(shell, getattr(trt, owner)) else ():
        bound = one.bind(positional, keywords)
        if bound is None:
            continue
        if all(allowed(trt, name, parameter, bound) for parameter in one.parameters):
            return {one.name: unwrapped(bound[one.name]) for one in one.parameters if one.name in bound}
    listed = "\n".join(f"    {number}. {one.text}" for number, one in enumerate(overloads, 1))
    what = "constructor" if name == "__init__" else "function"
    raise TypeError(
        f"{name}(): incompatible {what} arguments. The following argument types are supported:\n{listed}\n\n"
        f"Invoked with: {shell!r}, {positional} {keywords}"
    )


def allowed(trt, method: str, parameter, bound: dict) -> bool:
    if parameter.name not in bound:
        return not parameter.required
    value = bound[parameter.name]
    if value is None:
        if parameter.kind == "str":
            return method not in NO_NULL_TEXT
        return parameter.kind in ("bool", "object") or NULLABLE.get(method) == parameter.name
    if parameter.name in UNSIGNED and is_whole(value) and int(value) < 0:
        return False
    return accepts(trt, parameter.kind, value)


def accepts(trt: types.ModuleType, kind: str, value) -> bool:
    """Whether pybind11 converts a value to a kind of the surface."""
    if kind in CONVERSIONS:
        return CONVERSIONS[kind](value)
    if kind == "Dims":
        return isinstance(value, trt.Dims) or is_whole_sequence(value)
    try:
        wanted = operator.attrgetter(kind)(trt)
    except AttributeError:
        return True
    return isinstance(value, wanted)


def is_whole(value) -> bool:
    if isinstance(value, float) or not (hasattr(value, "__index__") or hasattr(value, "__int__")):
        return False
    try:
        return -(2**63) <= int(value) < 2**64
    except (TypeError, ValueError, RuntimeError):  # an array of several numbers
        return False


def is_whole_sequence(value) -> bool:
    if isinstance(value, str | bytes | dict) or not hasattr(value, "__iter__"):
        return False
    return all(is_whole(one) for one in value)


def is_cast(sizes: tuple | list) -> bool:
    """Sizes in a tuple or a list are cast one by one, and that error is of another kind."""
    if not is_whole_sequence(sizes):
        raise RuntimeError(f"Unable to cast Python instance to C++ type: {sizes!r}")
    return True


def is_buffer(value) -> bool:
    try:
        memoryview(value)
    except TypeError:
        return False
    return True


CONVERSIONS = {
    "SupportsInt": is_whole,
    "SupportsFloat": lambda value: hasattr(value, "__float__"),
    "bool": lambda value: value is None or hasattr(value, "__bool__"),
    "str": lambda value: isinstance(value, str | bytes),
    "Buffer": is_buffer,
    "tuple": lambda value: isinstance(value, tuple) and is_cast(value),
    "list": lambda value: isinstance(value, list) and is_cast(value),
    "Sequence[SupportsInt]": is_whole_sequence,
}
