"""The two value types of TensorRT: shapes, and memory that a builder returns."""

from __future__ import annotations

from .pybind import Object, is_whole_sequence

LARGEST_RANK = 8


class Dims(Object):
    """A shape. It equals tuples and lists; comparison with another shape is a TypeError, as in the real bindings."""

    __slots__ = ("_sizes",)
    __module__ = "tensorrt"
    MAX_DIMS = LARGEST_RANK
    rank: int | None = None
    __hash__ = None

    def __init__(self, shape=()):
        shape = list(shape) if hasattr(shape, "__iter__") else shape
        if not is_whole_sequence(shape) or any(int(size) >= 2**63 for size in shape):
            raise TypeError(f"__init__(): incompatible constructor arguments. Invoked with: {shape!r}")
        longest = LARGEST_RANK if self.rank is None else self.rank
        if len(shape) > longest or (self.rank and shape and len(shape) != longest):
            raise ValueError(f"Input length {len(shape)}. Max expected length is {longest}")
        self._inner, self._sizes = None, [int(size) for size in shape]

    def __len__(self):
        return len(self._sizes)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return tuple(self._sizes[index])
        try:
            return self._sizes[index]
        except IndexError:
            raise IndexError("Out of bounds") from None

    def __setitem__(self, index, value):
        self._sizes[index] = list(value) if isinstance(index, slice) else int(value)

    def __eq__(self, other):
        if not isinstance(other, tuple | list):
            raise TypeError(f"__eq__(): incompatible function arguments. Invoked with: {self}, {other!r}")
        return tuple(self._sizes) == tuple(other)

    def __repr__(self):
        return str(tuple(self._sizes))


def make_dims() -> list[type]:
    """`Dims` and its subclasses of a fixed rank, for one module."""
    ranks = {"Dims2": 2, "DimsHW": 2, "Dims3": 3, "Dims4": 4}
    base = type(Dims)("Dims", (Dims,), {"__slots__": (), "__module__": "tensorrt"})
    fixed = [
        type(Dims)(name, (base,), {"__slots__": (), "__module__": "tensorrt", "rank": rank})
        for name, rank in ranks.items()
    ]
    return [base, *fixed]


class HostMemory(bytearray):
    """Memory with the buffer protocol only: no length, no index, no methods of bytes.

    A bytearray, because before Python 3.12 only a built-in type can offer the buffer protocol.
    """

    __slots__ = ()
    __module__ = "tensorrt"
    __len__ = __iter__ = __getitem__ = __setitem__ = __delitem__ = __contains__ = None
    __add__ = __iadd__ = __mul__ = __rmul__ = __imul__ = __mod__ = __lt__ = __gt__ = __le__ = __ge__ = None
    __eq__, __ne__, __hash__ = object.__eq__, object.__ne__, object.__hash__
    __repr__ = __str__ = object.__repr__
    data_type: object = None

    def __init__(self, *arguments, **keywords):
        raise TypeError("tensorrt.IHostMemory: No constructor defined!")

    def __bool__(self):
        return True

    def __getattribute__(self, name: str):
        if name not in ("nbytes", "dtype") and not name.startswith("__"):
            raise AttributeError(f"'tensorrt.IHostMemory' object has no attribute '{name}'")
        return super().__getattribute__(name)

    @property
    def nbytes(self):
        return memoryview(self).nbytes

    @property
    def dtype(self):
        return type(self).data_type


def host_memory(trt, content: bytes) -> HostMemory:
    """The memory in which a builder returns bytes."""
    memory = trt.IHostMemory.__new__(trt.IHostMemory)
    bytearray.__init__(memory, content)
    return memory
