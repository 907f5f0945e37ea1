"""timm's create_model with the arguments of a request; its failures become errors with hints."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import re
from typing import TYPE_CHECKING, Any, cast

from timmx.base import brief, memory_bytes, size_text
from timmx.errors import ConfigurationError, ModelError
from timmx.model.config import check_arguments

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

FLAGS = {
    "model_name": "MODEL",
    "pretrained": "--pretrained",
    "checkpoint_path": "--checkpoint",
    "num_classes": "--num-classes",
    "in_chans": "--in-chans",
    "img_size": "--input-size",
    "input_size": "--input-size",
    "features_only": "--features",
    "out_indices": "--out-indices",
    "device": "--device",
}
"""Arguments of create_model that have options of their own."""

_INTERNAL = {
    *("pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn"),
    *("pretrained_model_args", "cache_dir", "model_cfg", "kwargs_filter", "pruned"),
    *("feature_cls", "feature_cfg", "scriptable", "exportable", "no_jit", "dtype"),
}
"""Arguments that would change the source of weights, how strictly they are loaded, or what is built."""


def check_model_kwargs(kwargs: Mapping[str, Any]) -> None:
    """Check `--model-kwargs` for arguments that have an option of their own or are internal. Imports nothing heavy.

    Raises:
        ConfigurationError: such an argument is set, or a value is one that no model takes.
    """
    check_arguments(kwargs, "--model-kwargs ")
    for key in kwargs:
        if key in FLAGS:
            raise ConfigurationError(
                f"--model-kwargs {key}=... is set by another option", hint=f"use {FLAGS[key]}"
            )
        if key in _INTERNAL:
            raise ConfigurationError(
                f"--model-kwargs {key}=... cannot be set in an export", hint="leave it out"
            )


def can_be_trained_with(key: str) -> bool:
    """Whether an argument of create_model may come from the options of a checkpoint's training."""
    return key in ("num_classes", "in_chans", "img_size") or not (key in FLAGS or key in _INTERNAL)


def create(name: str, arguments: Mapping[str, Any], meta: bool = False) -> nn.Module:
    """Create a timm model in eval mode.

    Args:
        name: timm's name, or `local-dir:FOLDER`.
        arguments: for create_model.
        meta: create it on the meta device.

    Raises:
        ConfigurationError: the model does not take one of the arguments; the hint lists those that it takes.
        ModelError: timm cannot build it with these arguments.
    """
    import timm

    try:
        with _on_meta() if meta else contextlib.nullcontext():
            return timm.create_model(name, **arguments).eval()
    except TypeError as exc:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(exc))
        if unknown and unknown[1] in arguments:
            raise UnknownArgumentError(name, unknown[1]) from exc
        raise ModelError(_cannot_build(name, arguments, exc), hint=_CHECK) from exc
    except (ModelError, ConfigurationError):
        raise
    except Exception as exc:  # constructors raise any type
        raise ModelError(_cannot_build(name, arguments, exc), hint=_CHECK) from exc


_CHECK = "check --model-kwargs, --in-chans, --num-classes and --input-size"

_INITIALISERS = {"add_", "clamp_", "erfinv_", "fill_", "mul_", "normal_", "uniform_", "zero_"}


@contextlib.contextmanager
def _on_meta() -> Iterator[None]:
    """Create tensors on the meta device and skip their initialization.

    On the meta device torch 2.14 spends 90 % of a ViT's construction in `clamp_`.

    Raises:
        ModelTooLargeError: the model does not fit into this machine's memory.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    memory = memory_bytes()

    class WithoutInitializing(TorchFunctionMode):
        count = size_bytes = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            name = getattr(func, "__name__", "")
            if name in _INITIALISERS:
                # a method, or a function of torch.nn.init
                tensor = args[0] if args else kwargs["tensor"]
                if tensor.is_meta:
                    return tensor
            result = func(*args, **kwargs)
            if name == "empty":  # weights; layers create them with it
                self.count += 1
                self.size_bytes += result.nbytes
                if self.count > _MOST_TENSORS or (memory is not None and self.size_bytes > memory):
                    raise ModelTooLargeError(self.count, self.size_bytes, memory)
            return result

    with torch.device("meta"), WithoutInitializing():
        yield


_MOST_TENSORS = 20_000
"""The largest models of timm 1.0 have some thousands of weights and statistics."""


class ModelTooLargeError(ConfigurationError):
    """The model has more weights than this machine can hold."""

    def __init__(self, count: int, size_bytes: int, memory: int | None) -> None:
        message = f"the model has more than {_MOST_TENSORS:,} weight tensors"
        if count <= _MOST_TENSORS:
            message = f"the model's weights take more than {size_text(size_bytes)}"
            message += f", and this machine has {size_text(memory or 0)} of memory"
        super().__init__(message, hint=_CHECK_SIZES)


_CHECK_SIZES = "check --in-chans, --num-classes, --model-kwargs, and model_args in the model's config.json"


class UnknownArgumentError(ConfigurationError):
    """The model takes no argument of this name."""

    def __init__(self, name: str, argument: str) -> None:
        self.argument = argument
        super().__init__(f"{name} takes no argument {argument!r}", hint=_own_arguments(name, argument))


def create_features(name: str, arguments: Mapping[str, Any], meta: bool = False) -> nn.Module:
    """Create a timm model that outputs its feature pyramid.

    Args:
        name: see `create`.
        arguments: see `create`; `out_indices` are levels, negative ones counted from the end.
        meta: see `create`.

    Raises:
        ConfigurationError: the model has no feature pyramid, or lacks some of these levels.
    """
    try:
        return create(name, {**arguments, "features_only": True}, meta)
    except ModelError as exc:
        plain = {key: value for key, value in arguments.items() if key != "out_indices"}
        levels = len(getattr(create(name, plain, meta=True), "feature_info", ()))
        indices = arguments.get("out_indices")
        if indices and any(not -levels <= level < levels for level in indices):
            raise ConfigurationError(
                f"--out-indices {','.join(map(str, indices))}: {name} has the levels 0 to {levels - 1}",
                hint=f"use levels from 0 to {levels - 1}, or from -{levels} to -1, counted from the end",
            ) from exc
        raise ConfigurationError(
            f"{name} has no feature pyramid ({first_line(exc.__cause__ or exc)})", hint="leave --features out"
        ) from exc


def cfg_of(model: nn.Module) -> dict[str, Any]:
    """timm's configuration of a model that timm built."""
    return cast("dict[str, Any]", model.pretrained_cfg)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's random numbers inside the block and restore their state afterwards."""
    import torch

    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed every accelerator
        torch.default_generator.manual_seed(seed)
        yield


def first_line(exc: BaseException) -> str:
    """The first line of an exception's message, or its type."""
    lines = str(exc).strip().splitlines()
    return (lines[0].strip() if lines else f"{type(exc).__name__}").rstrip(".")


def _cannot_build(name: str, arguments: Mapping[str, Any], exc: Exception) -> str:
    ours = ("pretrained", "pretrained_cfg_overlay")
    settings = ", ".join(f"{key}={brief(value)}" for key, value in arguments.items() if key not in ours)
    suffix = f" with {settings}" if settings else ""
    return f"timm cannot build {name}{suffix}: {type(exc).__name__}: {first_line(exc)[:500]}"


def _own_arguments(name: str, argument: str) -> str:
    """A hint with the model's arguments that are similar to this one, or all of them."""
    own = constructor_arguments(name) - {"cfg", "args", "kwargs"} - set(FLAGS) - _INTERNAL
    close = difflib.get_close_matches(argument, own, n=3)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"use one of {', '.join(sorted(own))}"


def constructor_arguments(name: str) -> set[str]:
    """Names of the arguments that the constructor of a model takes."""
    import timm

    with _on_meta():
        model = timm.create_model(name)
    own: set[str] = set()
    for cls in type(model).__mro__:
        constructor = vars(cls).get("__init__")
        parameters = inspect.signature(constructor).parameters if constructor else {}
        own |= set(parameters)
        cfg = parameters.get("cfg")
        if cfg is not None and any(value.kind is value.VAR_KEYWORD for value in parameters.values()):
            own |= _cfg_fields(cls, cfg)
        if not any(value.kind is value.VAR_KEYWORD for value in parameters.values()):
            break
    return own - {"self"}


def _cfg_fields(cls: type, cfg: inspect.Parameter) -> set[str]:
    """The fields of a configuration dataclass; models that take one accept them as arguments too."""
    module = inspect.getmodule(cls)
    kind = getattr(module, cfg.annotation, None) if isinstance(cfg.annotation, str) else cfg.annotation
    return {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
