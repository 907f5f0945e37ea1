"""`timmx bench`: measures files in turns, each in its own process."""

from __future__ import annotations

import random
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx.artifact import ChangeCheck, read_artifact
from timmx.base import counted, reporter, usable_cores
from timmx.errors import ConfigurationError, TimmxError
from timmx.tools.bench.load import load_warning
from timmx.tools.bench.process import WorkerFailure, WorkerProcess
from timmx.tools.bench.result import BenchCase, BenchResult
from timmx.tools.bench.subjects import BenchSubject, check_options, find_subjects
from timmx.tools.bench.timing import (
    LEAST_ROUNDS,
    NOISY_SPREAD,
    SETTLED_VARIATION,
    pooled_quantiles,
    quantiles,
    ratio_of_medians,
    spread,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from timmx.contract import RuntimeDevice

_SLICE_S = 0.1
"""Length of a turn: short compared with the drift of a machine, long compared with a switch of processes."""
_DEFAULT_ROUNDS = 10
"""The minimum, unless the user sets another number: the interval of a ratio is bootstrapped from the rounds."""
_SEED = 20_240_229
_MANY_RUNS = 100
_LONG_FIRST_S = 1.0


@dataclass(kw_only=True)
class _Measurement:
    """A case while it is measured."""

    case: BenchCase
    worker: WorkerProcess
    latency_s: float = 0.0
    latencies_s: list[list[float]] = field(default_factory=list)
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
    trust: bool = False,
    runtime_device: RuntimeDevice | None = None,
) -> BenchResult:
    """Measure the latency, throughput and memory of files and of the PyTorch model.

    Each file and number of threads has its own process, in which it is opened and warmed up. Then the processes take
    turns, one at a time, in random order in each round.

    Args:
        paths: files that timmx wrote, of any installed backend.
        against: the model, as the base of the ratios: a timm name, hf-hub: or local-dir:; by default the first file
            is the base.
        model_options: for `timmx.tools.subject.request_for`; they need `against`.
        batch_sizes: images per run. A file with a fixed batch size is measured only at that, with a note.
        threads: numbers of threads that the runtimes may use; None means all cores of this process.
        seconds: approximate time to measure each case.
        rounds: number of rounds; by default rounds of 0.1 s, at least 10.
        compile: also measure the model under `torch.compile`.
        trust: the files may run code that they contain.
        runtime_device: where the runtimes of the files compute; None for their default.

    Returns:
        The measurements of each case. A failed case has an `error`; the others are still measured.

    Raises:
        TimmxError: an option is invalid, a file does not exist or was not written by timmx, or the base cannot be
            opened.
    """
    if not paths:
        raise ConfigurationError(
            "no file to measure is given", hint="name one or more files that timmx wrote"
        )
    counts = list(dict.fromkeys(usable_cores() if count is None else count for count in threads))
    sizes = sorted(set(batch_sizes))
    check_options(against, model_options, counts, sizes, seconds, rounds, compile)
    warnings: list[str] = []
    subjects = find_subjects(
        [Path(path).expanduser() for path in paths], against, model_options, compile, sizes, warnings
    )
    if rounds is not None and rounds < LEAST_ROUNDS:
        warnings.append(
            f"{counted(rounds, 'round')} cannot give the ratios an interval: use --rounds {LEAST_ROUNDS} or more."
        )
    if max(counts) > usable_cores():
        warnings.append(
            f"--threads {max(counts)} is more than the {usable_cores()} cores that this process may use: threads "
            "will wait for each other."
        )
    warnings += (busy := load_warning(counts, "before measuring began"))
    for text in warnings:  # before the measurement, in time for Ctrl-C
        reporter().warn(text)
    reported = len(warnings)
    sizes_of_base = sorted({*sizes, *(subject.batch for subject in subjects if subject.batch is not None)})
    with ExitStack() as workers:
        cases: list[BenchCase | _Measurement] = []
        reporter().step("Opening and warming up")
        opening = {"trust": trust, "runtime_device": runtime_device}
        files = dict.fromkeys(subject.path for subject in subjects if not subject.is_model)
        checks = [_change_check(path) for path in files]
        for index, subject in enumerate(subjects):
            reporter().advance(subject.name, index / len(subjects))
            for count in counts:
                cases += _start(
                    subject, count, sizes_of_base if subject.is_model else sizes, workers, warnings, opening
                )
        warnings += [text for check in checks if (text := check.finish())]
        measured, turns = _take_turns(cases, seconds, rounds)
        results = _with_ratios(_results(measured), subjects[0].name)
    warnings += [*([] if busy else load_warning(counts, "when measuring ended")), *_noise(results)]
    for text in warnings[reported:]:
        reporter().warn(text)
    return BenchResult(
        cases=tuple(results),
        base=subjects[0].name if any(case.p50_ms is not None for case in results) else None,
        rounds=turns,
        seconds=seconds,
        warnings=tuple(warnings),
        environment=_environment(subjects),
    )


def _change_check(path: Path) -> ChangeCheck:
    backend, metadata = read_artifact(path)
    return ChangeCheck(backend.files(path), metadata.to_json())


def _start(
    subject: BenchSubject,
    threads: int,
    batch_sizes: Sequence[int],
    workers: ExitStack,
    warnings: list[str],
    opening: Mapping[str, Any],
) -> list[BenchCase | _Measurement]:
    """Open a subject in a worker and warm it up at each batch size, smaller ones first."""
    path = None if subject.is_model else subject.path
    sizes = list(batch_sizes) if subject.batch is None else [subject.batch]
    left_out = [] if subject.batch is None else [size for size in batch_sizes if size != subject.batch]
    notes: tuple[str, ...] = (
        (f"its batch size is fixed at {sizes[0]}, so it was not measured at {', '.join(map(str, left_out))}",)
        if left_out
        else ()
    )
    cases = [
        BenchCase(name=subject.name, path=path, batch_size=size, threads=threads, notes=notes)
        for size in sizes
    ]
    worker = workers.enter_context(WorkerProcess(threads))
    reporter().detail(f"{subject.name}{_by(threads)}: process {worker.pid}")
    try:
        opened = worker.ask(
            "open", path=str(subject.path.absolute()), threads=threads, **opening, **subject.opening
        )
    except WorkerFailure as exc:
        if subject.is_model and not exc.died:
            raise _as_raised(exc, subject.name) from exc
        return [replace(case, error=exc.line) for case in cases]
    for text in opened["warnings"]:
        if text not in warnings:
            warnings.append(text)
    memory = {"start": opened["start_bytes"], "loaded": opened["loaded_bytes"]}
    started: list[BenchCase | _Measurement] = []
    for case in cases:
        case = replace(case, engine=opened["engine"], memory=dict(memory))
        try:
            warm = worker.ask("warm", batch=case.batch_size)
        except WorkerFailure as exc:
            if exc.died:  # the worker of the smaller batch sizes too
                return [replace(each, error=exc.line) for each in cases]
            started.append(replace(case, error=exc.line))
            continue
        if not warm["settled"]:
            unsettled = (
                f"its latency still varied by more than {100 * SETTLED_VARIATION:g} % at the end of warm-up"
            )
            case = replace(case, notes=(*case.notes, unsettled))
        kept = {name: warm[name] for name in ("settled", "runs", "first_run_s", "seconds", "variation")}
        case = replace(case, memory_bytes=warm["warm_bytes"], warm_up=kept)
        started.append(_Measurement(case=case, worker=worker, latency_s=warm["latency_s"]))
    if any(
        isinstance(item, _Measurement) for item in started
    ):  # it runs at some sizes, so it does not take the others
        started = [replace(item, refused=True) if isinstance(item, BenchCase) else item for item in started]
    return started


def _take_turns(
    cases: list[BenchCase | _Measurement], seconds: float, rounds: int | None
) -> tuple[list[BenchCase | _Measurement], int]:
    """Measure all running cases, one after another, round by round."""
    alive = [item for item in cases if isinstance(item, _Measurement)]
    if not alive:
        return cases, 0
    slowest = max(_SLICE_S, *(2 * item.latency_s for item in alive))
    turns = rounds or max(_DEFAULT_ROUNDS, round(seconds / slowest))
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
                turn_result = item.worker.ask("slice", batch=item.case.batch_size, seconds=seconds / turns)
            except WorkerFailure as exc:
                gone[id(item.worker)] = exc.line
                continue
            item.latencies_s.append(turn_result["latencies_s"])
            item.rounds_s += quantiles(turn_result["latencies_s"], (0.5,))
            item.cpu_s += turn_result["cpu_s"]
            item.wall_s += turn_result["wall_s"]
        alive = [item for item in alive if id(item.worker) not in gone]
    return [
        replace(item.case, error=gone[id(item.worker)])
        if isinstance(item, _Measurement) and id(item.worker) in gone
        else item
        for item in cases
    ], turns


def _results(cases: Sequence[BenchCase | _Measurement]) -> list[BenchCase]:
    """The measurements of each case, including its worker's memory at the end."""
    peaks: dict[int, int | None] = {}
    for item in cases:
        if isinstance(item, _Measurement) and id(item.worker) not in peaks:
            try:
                peaks[id(item.worker)] = item.worker.ask("end")["end_bytes"]
            except WorkerFailure:  # the case is measured by then
                peaks[id(item.worker)] = None
    return [
        _figures(item, peaks[id(item.worker)]) if isinstance(item, _Measurement) else item for item in cases
    ]


def _figures(item: _Measurement, peak: int | None) -> BenchCase:
    case = item.case
    rounds = [[1000 * value for value in runs] for runs in item.latencies_s]
    latencies = [value for runs in rounds for value in runs]
    p50, p90, p99 = pooled_quantiles(rounds, (0.5, 0.9, 0.99))
    start, loaded = case.memory["start"], case.memory["loaded"]
    memory = dict(case.memory) | {
        "end": peak,
        "opening": _less(loaded, start),
        "running": _less(peak, loaded),
    }
    notes = case.notes
    if len(latencies) < _MANY_RUNS:
        notes = (*notes, f"fewer than {_MANY_RUNS} runs, so p99 is close to the maximum")
    first = case.warm_up["first_run_s"]
    if first > _LONG_FIRST_S and first > 0.02 * p50:  # 20 times, in s and ms
        notes = (*notes, f"its first run took {first:.1f} s, which is not counted")
    return replace(
        case,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        throughput=case.batch_size * len(latencies) / sum(map(sum, item.latencies_s)),
        notes=notes,
        latencies_ms=tuple(latencies),
        round_runs=tuple(map(len, rounds)),
        rounds_ms=tuple(1000 * value for value in item.rounds_s),
        spread=spread(item.rounds_s),
        cores_used=item.cpu_s / item.wall_s,
        memory=memory,
    )


def _with_ratios(cases: Sequence[BenchCase], base: str) -> list[BenchCase]:
    """Add the ratios to the base at the same batch size and threads."""
    bases = {(case.batch_size, case.threads): case for case in cases if case.name == base and case.rounds_ms}
    results = []
    for case in cases:
        reference = bases.get((case.batch_size, case.threads))
        if reference is case:
            case = replace(case, ratio=1.0, ratio_interval=(1.0, 1.0))
        elif reference is not None and case.rounds_ms:
            ratio, interval = ratio_of_medians(case.by_round(), reference.by_round())
            case = replace(case, ratio=ratio, ratio_interval=interval)
        elif case.rounds_ms:
            missing = f"no ratio, because {base} was not measured at batch size {case.batch_size}"
            case = replace(case, notes=(*case.notes, missing))
        results.append(case)
    return results


def _noise(cases: Sequence[BenchCase]) -> list[str]:
    noisy = [case for case in cases if case.spread is not None and case.spread > NOISY_SPREAD]
    if not noisy:
        return []
    worst = max(noisy, key=lambda case: case.spread or 0.0)
    return [
        f"This machine is noisy: {len(noisy)} of {len(cases)} cases vary by more than {100 * NOISY_SPREAD:.0f} % "
        f"between rounds, {worst.name} by {100 * (worst.spread or 0.0):.0f} %. Stop other processes, or increase "
        "--seconds; the intervals of the ratios include this noise."
    ]


def _environment(subjects: Sequence[BenchSubject]) -> dict[str, str]:
    from timmx.artifact import backend_for
    from timmx.registry import distribution_of
    from timmx.report import environment

    owners = {distribution_of(backend_for(subject.path)) for subject in subjects}
    facts = environment(sorted(name for name in owners if name))
    facts.pop("OMP_NUM_THREADS", None)  # the workers have their own
    return facts


def _as_raised(failure: WorkerFailure, name: str) -> TimmxError:
    """The worker's error, as its own class if it is one of ours."""
    import timmx.errors

    kind: Callable[..., Any] = getattr(timmx.errors, failure.kind, TimmxError) if failure.kind else TimmxError
    message = failure.message if failure.kind else f"{name} fails: {failure.message}"
    error = kind(message, hint=failure.hint)
    return error if isinstance(error, TimmxError) else TimmxError(failure.message, hint=failure.hint)


def _less(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before


def _by(threads: int) -> str:
    return f", {counted(threads, 'thread')}"
