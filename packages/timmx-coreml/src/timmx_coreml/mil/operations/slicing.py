"""MIL's slices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx_coreml.mil.operations.registry import Bools, Ints, operation

if TYPE_CHECKING:
    from torch import Tensor


@operation(raw=True)
def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    for axis, cut in enumerate(_slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)):
        x = _slice_axis(x, axis, cut)
    return x.squeeze([axis for axis, squeezed in enumerate(squeeze_mask or []) if squeezed])


@operation(raw=True)
def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Tensor:
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        first += x.shape[axis] if first < 0 else 0
        if count == 0:
            raise NotImplementedError("a size of 0")
        x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)
    return x


@operation(raw=True)
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    x = x.clone()
    place = x
    for axis, cut in enumerate(_slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)):
        if cut.step is not None and cut.step < 0:
            raise NotImplementedError("a negative stride")
        place = _slice_axis(place, axis, cut)
    place.copy_(update.reshape(place.shape))
    return x


def _slices(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None,
    begin_mask: Bools | None,
    end_mask: Bools | None,
    squeeze_mask: Bools | None,
) -> list[slice]:
    """Return a Python slice per dimension; a squeezed dimension keeps one element."""
    no = [False] * x.ndim
    slices = []
    for first, last, step, from_edge, to_edge, squeezed, size in zip(
        begin,
        end,
        stride or [1] * x.ndim,
        begin_mask or no,
        end_mask or no,
        squeeze_mask or no,
        x.shape,
        strict=True,
    ):
        if squeezed:
            place = 0 if from_edge else first + size if first < 0 else first
            if not 0 <= place < size:
                raise IndexError(f"index {first} of {size} elements")
            slices.append(slice(place, place + 1))
        else:
            slices.append(slice(None if from_edge else first, None if to_edge else last, step))
    return slices


def _slice_axis(x: Tensor, axis: int, cut: slice) -> Tensor:
    """Slice one axis; torch has no negative steps, so such a slice is taken forwards and flipped."""
    places = range(*cut.indices(x.shape[axis]))
    if places.step > 0:
        return x[(slice(None),) * axis + (slice(places.start, max(places.start, places.stop), places.step),)]
    if not places:
        return x.narrow(axis, 0, 0)
    forwards = slice(places[-1], places[0] + 1, -places.step)
    return x[(slice(None),) * axis + (forwards,)].flip(axis)
