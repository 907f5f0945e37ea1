"""`timmx bench`: latency, throughput and memory of files, each in a process of its own, taking turns."""

from __future__ import annotations

import os
import random
import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx.errors import ConfigurationError, MissingRequirementError, TimmxError
from timmx.progress import reporter
from timmx.threads import usable_cores
from timmx.tools.bench_process import WorkerFailure, WorkerProcess
from timmx.tools.bench_result import BenchCase, BenchResult
from timmx.tools.timing import NOISY_SPREAD, quantiles, ratio_of_medians, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SLICE_S = 0.1
"""A turn is about this long: short beside the drift of a machine, long beside the change of processes."""
_LEAST_ROUNDS = 10
"""Unless the user asks for another number: the interval of a ratio is drawn from the rounds."""
_SEED = 20_240_229
_MANY_RUNS = 100


@dataclass(frozen=True)
class _Subject:
    """What is measured: a file, or the model beside it.

    Attributes:
        opening: further arguments of the worker's `open`.
        batch: the only batch that it takes; None where that is open.
    """

    name: str
    path: Path
    batch: int | None
    opening: dict[str, Any] = field(default_factory=dict)

    @property
    def is_model(self) -> bool:
        return bool(self.opening)


@dataclass
class _Measured:
    """A case while it is measured."""

    case: BenchCase
    worker: WorkerProcess
    latency_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    rounds_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    wall_s: float = 0.0


def bench(
    paths: Sequence[str | os.PathLike[str]],
    *,
    against: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    batch_sizes: Sequence[int] = (1,),
    threads: Sequence[int | None] = (None,),
    seconds: float = 3.0,
    rounds: int | None = None,
    compile: bool = False,
) -> BenchResult:
    """Measure files beside each other, and beside the PyTorch model.

    Each file and number of threads has a process of its own, in which it is opened and warmed up. Then they take
    turns, one at a time, in an order that is drawn anew each round.

    Args:
        paths: files that timmx wrote, of any installed backend.
        against: the model, which becomes the base: a timm name, hf-hub: or local-dir:. None: the first file is the
            base.
        model_options: for `timmx.tools.against.request_for`; they need `against`.
        batch_sizes: images a run. A file with a fixed batch is measured at that alone, and says so.
        threads: numbers of threads that the runtimes may use; None stands for all cores of this process.
        seconds: of timed runs a case, about.
        rounds: turns of each case; by default as many as give turns of 0.1 s, at least 10.
        compile: measure the model made by `torch.compile` too.

    Returns:
        The figures of each case. A case that failed says why; the others are measured all the same.

    Raises:
        TimmxError: an option makes no sense, a file is not there or none of ours, or the base cannot be opened.
    """
    if not paths:
        raise ConfigurationError("Name a file to measure.")
    counts = list(dict.fromkeys(usable_cores() if count is None else count for count in threads))
    sizes = sorted(set(batch_sizes))
    _check(against, model_options, counts, sizes, seconds, rounds, compile)
    warnings: list[str] = []
    subjects = _subjects(
        [Path(path).expanduser() for path in paths], against, model_options, compile, warnings
    )
    if max(counts) > usable_cores():
        warnings.append(
            f"{max(counts)} threads were asked for, and this process may use {usable_cores()} cores: they wait for "
            "each other."
        )
    sizes_of_base = sorted({*sizes, *(subject.batch for subject in subjects if subject.batch is not None)})
    with ExitStack() as workers:
        cases: list[BenchCase | _Measured] = []
        for subject in subjects:
            wanted = sizes_of_base if subject.is_model else sizes
            for count in counts:
                cases += _start(subject, count, wanted, workers, against is not None, warnings)
        done, turns = _take_turns(cases, seconds, rounds)
        ended = _with_ratios(_ended(done), subjects[0].name)
    for text in _noise(ended):
        warnings.append(text)
    for text in warnings:
        reporter().warn(text)
    measured = any(case.p50_ms is not None for case in ended)
    return BenchResult(
        tuple(ended),
        subjects[0].name if measured else None,
        turns,
        seconds,
        tuple(warnings),
        _environment(subjects),
    )


def _check(
    against: str | None,
    model_options: Mapping[str, Any] | None,
    threads: Sequence[int],
    batch_sizes: Sequence[int],
    seconds: float,
    rounds: int | None,
    compiled: bool,
) -> None:
    if against is not None and not isinstance(against, str):
        raise ConfigurationError(
            f"against is a {type(against).__name__}: name the model (a timm name, hf-hub: or local-dir:), since it is "
            "loaded in a process of its own."
        )
    if against is None and (compiled or model_options):
        flag = "compile" if compiled else next(iter(model_options or {})).replace("_", "-")
        raise ConfigurationError(f"--{flag} is about a model: name it with --against.")
    for flag, values in (("threads", threads), ("batch-sizes", batch_sizes)):
        if not values or min(values) < 1:
            raise ConfigurationError(f"--{flag} takes whole numbers of at least 1, such as 1,2.")
    if not seconds > 0 or (rounds is not None and rounds < 1):
        raise ConfigurationError("--seconds is to be above 0, and --rounds at least 1.")
    if compiled:
        compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
        if shutil.which(compiler) is None:
            raise MissingRequirementError(
                f"--compile needs a C++ compiler, and there is no {compiler} on PATH: install it (apt install g++, or "
                "xcode-select --install), name another in CXX, or leave --compile out."
            )


def _subjects(
    paths: Sequence[Path],
    against: str | None,
    model_options: Mapping[str, Any] | None,
    compiled: bool,
    warnings: list[str],
) -> list[_Subject]:
    """The base first. All files are looked at before anything is opened."""
    from timmx.tools.against import request_for

    metadata = [_metadata(path) for path in paths]
    first = metadata[0]
    subjects = []
    if against is not None:
        request_for(first, against, model_options)  # refuses options before anything is opened
        for made in (False, True) if compiled else (False,):
            opening = {
                "is_model": True,
                "against": against,
                "model_options": _plain(model_options or {}),
                "compile": made,
            }
            shown = Path(against).name if against.startswith("local-dir:") else against
            name = f"{shown} (torch.compile)" if made else f"{shown} (PyTorch)"
            subjects.append(_Subject(name, paths[0], None, opening))
    for name, path, found in zip(_names(paths), paths, metadata, strict=True):
        batch = found["batch"]
        subjects.append(_Subject(name, path, None if batch.get("dynamic") else int(batch["size"])))
        if found["input"]["size"] != first["input"]["size"]:
            warnings.append(
                f"{name} takes images of {_size(found)} and {subjects[0].name} of {_size(first)}: the ratio compares "
                "different work."
            )
    return subjects


def _names(paths: Sequence[Path]) -> list[str]:
    """The files' names, or their paths where two are named alike; no two are equal."""
    short = [path.name for path in paths]
    names: list[str] = []
    for path in paths:
        name = path.name if short.count(path.name) == 1 else str(path)
        again = sum(path == other for other in paths[: len(names)])
        names.append(f"{name} again" + (f" ({again})" if again > 1 else "") if again else name)
    return names


def _metadata(path: Path) -> dict[str, Any]:
    from timmx.errors import ArtifactError
    from timmx.metadata import check_metadata
    from timmx.opening import backend_for

    if not path.exists():
        raise ArtifactError(f"There is no file {path}.")
    metadata = backend_for(path).read_metadata(path)
    check_metadata(path, metadata)
    try:
        _ = metadata["batch"].get("dynamic") or int(metadata["batch"]["size"]), metadata["input"]["size"]
    except (LookupError, TypeError, ValueError, AttributeError) as exc:
        raise ArtifactError(
            f"{path} is damaged: its metadata is not what timmx writes. Export it anew."
        ) from exc
    return metadata


def _start(
    subject: _Subject,
    threads: int,
    wanted: Sequence[int],
    workers: ExitStack,
    base_is_model: bool,
    warnings: list[str],
) -> list[BenchCase | _Measured]:
    """Open a subject in a worker and warm it up at each batch size, the smaller ones first."""
    path = None if subject.is_model else subject.path
    sizes = list(wanted) if subject.batch is None else [subject.batch]
    left_out = [] if subject.batch is None else [size for size in wanted if size != subject.batch]
    notes: tuple[str, ...] = (
        (f"it takes {_images(sizes[0])} at once, so it was not measured at {', '.join(map(str, left_out))}",)
        if left_out
        else ()
    )
    cases = [BenchCase(subject.name, path, size, threads, notes=notes) for size in sizes]
    reporter().step(f"Opening {subject.name}{_by(threads)}")
    worker = workers.enter_context(WorkerProcess(threads))
    reporter().detail(f"process {worker.pid}")
    try:
        opened = worker.ask("open", path=str(subject.path.absolute()), threads=threads, **subject.opening)
    except WorkerFailure as exc:
        if subject.is_model and not exc.died:
            raise _as_raised(exc, subject.name) from exc
        return [replace(case, error=str(exc)) for case in cases]
    for text in opened["warnings"]:
        if text not in warnings:
            warnings.append(text)
    memory = {"start": opened["start_bytes"], "loaded": opened["loaded_bytes"]}
    started: list[BenchCase | _Measured] = []
    gone = ""
    for case in cases:
        case = replace(case, engine=opened["engine"], memory=dict(memory))
        if gone:
            started.append(replace(case, error=gone))
            continue
        reporter().step(f"Warming up {subject.name}, batch {case.batch_size}{_by(threads)}")
        try:
            warm = worker.ask("warm", batch=case.batch_size)
        except WorkerFailure as exc:
            if exc.died:
                gone = str(exc)
                # Those that were warmed up before died with it.
                started = [replace(_case(item), error=gone) for item in started]
                started.append(replace(case, error=gone))
            else:
                refused = subject.batch is None and case.batch_size > 1 and not subject.is_model
                started.append(
                    replace(case, error=f"fails at batch {case.batch_size}: {exc}", refused=refused)
                )
            continue
        notes = case.notes
        if not warm["settled"]:
            notes = (
                *notes,
                f"its latency had not settled after {warm['seconds']:.1f} s of warm-up (variation "
                f"{100 * warm['variation']:.0f} %)",
            )
        kept = {name: warm[name] for name in ("settled", "runs", "seconds", "variation")}
        case = replace(case, memory_bytes=warm["warm_bytes"], warm_up=kept, notes=notes)
        started.append(_Measured(case, worker, warm["latency_s"]))
    return started


def _take_turns(
    cases: list[BenchCase | _Measured], seconds: float, rounds: int | None
) -> tuple[list[BenchCase | _Measured], int]:
    """All that are alive, one after another, round by round."""
    alive = [item for item in cases if isinstance(item, _Measured)]
    if not alive:
        return cases, 0
    slowest = max(_SLICE_S, *(2 * item.latency_s for item in alive))
    turns = rounds or max(_LEAST_ROUNDS, round(seconds / slowest))
    shuffled = random.Random(_SEED)
    reporter().step("Measuring")
    gone: dict[int, str] = {}
    for turn in range(turns):
        reporter().advance(f"round {turn + 1} of {turns}", turn / turns)
        reporter().detail(f"round {turn + 1} of {turns}")
        shuffled.shuffle(alive)
        for item in list(alive):
            if id(item.worker) in gone:
                continue
            try:
                found = item.worker.ask("slice", batch=item.case.batch_size, seconds=seconds / turns)
            except WorkerFailure as exc:
                gone[id(item.worker)] = str(exc)
                continue
            item.latencies_s += found["latencies_s"]
            item.rounds_s += quantiles(found["latencies_s"], (0.5,))
            item.cpu_s += found["cpu_s"]
            item.wall_s += found["wall_s"]
        alive = [item for item in alive if id(item.worker) not in gone]
    return [
        replace(item.case, error=gone[id(item.worker)])
        if isinstance(item, _Measured) and id(item.worker) in gone
        else item
        for item in cases
    ], turns


def _ended(cases: Sequence[BenchCase | _Measured]) -> list[BenchCase]:
    """The figures of each case, its worker's memory at the end among them."""
    peaks: dict[int, int | None] = {}
    for item in cases:
        if isinstance(item, _Measured) and id(item.worker) not in peaks:
            peaks[id(item.worker)] = item.worker.ask("end")["end_bytes"]
    return [_figures(item, peaks[id(item.worker)]) if isinstance(item, _Measured) else item for item in cases]


def _figures(item: _Measured, peak: int | None) -> BenchCase:
    case = item.case
    latencies = [1000 * value for value in item.latencies_s]
    p50, p90, p99 = quantiles(latencies, (0.5, 0.9, 0.99))
    start, loaded = case.memory["start"], case.memory["loaded"]
    memory = dict(case.memory) | {
        "end": peak,
        "opening": _less(loaded, start),
        "running": _less(peak, loaded),
    }
    notes = case.notes
    if len(latencies) < _MANY_RUNS:
        notes = (*notes, f"p99 of {len(latencies)} runs is near their longest")
    return replace(
        case,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        throughput=case.batch_size * len(latencies) / sum(item.latencies_s),
        notes=notes,
        latencies_ms=tuple(latencies),
        rounds_ms=tuple(1000 * value for value in item.rounds_s),
        spread=spread(item.rounds_s),
        cores_used=item.cpu_s / item.wall_s,
        memory=memory,
    )


def _with_ratios(cases: Sequence[BenchCase], base: str) -> list[BenchCase]:
    """Each case beside the base's of the same batch size and threads."""
    bases = {(case.batch_size, case.threads): case for case in cases if case.name == base and case.rounds_ms}
    found = []
    for case in cases:
        beside = bases.get((case.batch_size, case.threads))
        if beside is case:
            case = replace(case, ratio=1.0, ratio_interval=(1.0, 1.0))
        elif beside is not None and case.rounds_ms:
            ratio, interval = ratio_of_medians(case.rounds_ms, beside.rounds_ms)
            case = replace(case, ratio=ratio, ratio_interval=interval)
        found.append(case)
    return found


def _noise(cases: Sequence[BenchCase]) -> list[str]:
    noisy = [case for case in cases if case.spread is not None and case.spread > NOISY_SPREAD]
    if not noisy:
        return []
    worst = max(noisy, key=lambda case: case.spread or 0.0)
    return [
        f"This machine is noisy: {len(noisy)} of {len(cases)} cases spread by more than {100 * NOISY_SPREAD:.0f} % "
        f"between rounds, {worst.name} by {100 * (worst.spread or 0.0):.0f} %. End what else runs, or give more "
        "--seconds; the intervals of the ratios hold it."
    ]


def _environment(subjects: Sequence[_Subject]) -> dict[str, str]:
    from timmx.opening import backend_for
    from timmx.registry import distribution_of
    from timmx.report.environment import environment

    owners = {distribution_of(backend_for(subject.path)) for subject in subjects}
    facts = environment(sorted(name for name in owners if name))
    facts.pop("OMP_NUM_THREADS", None)  # the workers have their own
    return facts


def _as_raised(failure: WorkerFailure, name: str) -> TimmxError:
    """The error that the worker met, as its own kind where it is one of ours."""
    import timmx.errors

    kind: Callable[[str], Any] = (
        getattr(timmx.errors, failure.kind, TimmxError) if failure.kind else TimmxError
    )
    raised = kind(str(failure) if failure.kind else f"{name} fails: {failure}")
    return raised if isinstance(raised, TimmxError) else TimmxError(str(failure))


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON holds them."""
    return {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in options.items()
    }


def _case(item: BenchCase | _Measured) -> BenchCase:
    return item if isinstance(item, BenchCase) else item.case


def _less(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _by(threads: int) -> str:
    return f", {threads} thread{'s' * (threads != 1)}"


def _size(metadata: Mapping[str, Any]) -> str:
    return "x".join(map(str, metadata["input"]["size"]))
