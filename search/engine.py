"""The search: ask, score, reject, train, tell; every step through the journal."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from paretax.evaluators import (
    Evaluation,
    Failure,
    Lesson,
    Measurement,
    Reason,
    worst_violation,
)
from paretax.results import pareto
from paretax.results.gains import baseline_trouble
from paretax.results.journal import Journal, check_folder
from paretax.results.run import Run, apply_event, final_front, latest
from paretax.results.teaching import keep_lesson, run_lesson
from paretax.results.trial import Trial
from paretax.results.weights import save_weights
from paretax.search.config import SearchConfig
from paretax.search.executors import make_executor
from paretax.search.executors.protocol import Runner, calls_of
from paretax.search.failing import Keeping, check_hope
from paretax.search.finishing import repeat, score_test, to_repeat
from paretax.search.planning import Plan
from paretax.search.planning import plan as plan_of
from paretax.search.progress import Progress, Status, silent
from paretax.search.proposing import propose
from paretax.search.resuming import header, resumed, run_so_far, taught, unfinished
from paretax.search.rungs import losses_at
from paretax.search.samplers import Observation
from paretax.search.sharing import Proposal
from paretax.search.standing import Standing
from paretax.search.worker import WorkerSpec
from paretax.spaces import Candidate
from paretax.tasks.loading import goes_by_value, name_of

_BATCH = 8  # candidates asked for at once where neither config nor sampler says
_HOPELESS = 12  # trials that all fail before a search gives up


def run_search(
    plan: Plan | SearchConfig,
    out: Path | str,
    *,
    resume: bool = False,
    force_data: bool = False,
    address: str | None = None,
    progress: Progress = silent,
) -> Run:
    """Search until the budget is spent, then score the final front on the test split.

    Args:
        plan: from `plan`, or a config, which is then planned first.
        out: folder of the run.
        resume: go on with the run that is there.
        force_data: go on although data or code are others; the journal notes it.
        address: of a Ray cluster; None: this machine.
        progress: is told whenever something changed.

    Returns:
        The run, read back from its journal.

    Raises:
        UsageError: the folder is in use, or holds a run of another search.
        SearchError: everything fails; what was tried is in the journal all the same.
        KeyboardInterrupt: the user stopped it; what was measured is in the journal.
    """
    plan = plan_of(plan) if isinstance(plan, SearchConfig) else plan
    out = Path(out)
    check_folder(out, resume=resume)
    before = run_so_far(out, plan, force_data) if resume else None
    if before is not None and not unfinished(before, plan):
        check_hope(before.trials)
        return before
    spec = WorkerSpec(
        task=name_of(plan.config.task),
        value=plan.bench.task if goes_by_value(plan.config.task) else None,
        search_path=tuple(map(str, plan.search_path)),
        targets=plan.targets,
        wanted=tuple({o.name for o in (*plan.objectives, *plan.limits)}),
        known=tuple(m for t in before.trials for m in t.measurements if m.target)
        if before is not None
        else (),
        lesson=_lesson(plan, out, before, progress),
        data=plan.bench.data,
        axis=plan.config.population,
    )
    executor = make_executor(
        plan.config.executor,
        spec,
        workers=plan.config.worker_count,
        address=address,
        trial_seconds=plan.config.trial_seconds,
    )
    # Workers first: a cluster that is not there leaves nothing behind.
    with executor, Journal(out, resume=resume) as journal:
        if before is not None:
            # Whoever had the journal until now may have added to it.
            before = run_so_far(out, plan, force_data)
        if before is None:
            journal.append(header(plan))
        else:
            journal.append(resumed(before, plan))
        if spec.lesson is not None:
            file = keep_lesson(out, spec.lesson)
            if before is None or before.taught is None:
                journal.append(taught(spec.lesson, file))
        _Search(plan, out, journal, before, progress).run(Keeping(executor, out))
    run = Run.open(out)
    check_hope(run.trials)
    return run


def _lesson(plan: Plan, out: Path, before: Run | None, progress: Progress) -> Lesson | None:
    """What the teacher says: as it did before, from the cache, or after its training."""
    if plan.teacher is None:
        return None
    progress(
        Status(
            phase="teaching",
            total=plan.trials,
            asked=0,
            done=0,
            failed=0,
            rejected=0,
            stopped=0,
            front=0,
            hypervolume=None,
        )
    )
    if before is None:
        return run_lesson(plan.bench, plan.teacher, out, None)
    return run_lesson(plan.bench, plan.teacher, out, before.taught, before.lesson)


def trial_seed(seed: int, candidate: Candidate) -> int:
    """The seed of a candidate's training: 31 bits of a hash of the run's seed and its id."""
    digest = hashlib.sha256(f"{seed}/{candidate.id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


class _Search:
    """The state of a running search; a view of the journal, brought up to date with each event."""

    def __init__(
        self,
        plan: Plan,
        out: Path,
        journal: Journal,
        before: Run | None,
        progress: Progress,
    ) -> None:
        self._plan, self._out, self._journal, self._progress = plan, out, journal, progress
        self._trials: dict[int, Trial] = {t.number: t for t in before.trials} if before else {}
        self._references = dict(before.references) if before else {}
        self._targets = {
            t.name: tuple(o for o in plan.objectives if o.target in (None, t.name))
            for t in plan.config.targets
        }
        self._standing = Standing(self._targets, self._trials.values())
        self._exhausted = False
        self._end = (
            None
            if plan.config.budget.minutes is None
            else time.monotonic() + 60 * plan.config.budget.minutes
        )

    def run(self, executor: Runner) -> None:
        """Finish what was begun, go on to the end of the budget, and score the final front."""
        state = self._plan.sampler.init(self._plan.space)
        begun = 1 + max((t.batch for t in self._trials.values()), default=-1)
        number = 0
        while True:
            if number >= begun:
                candidates = self._propose(state)
                if candidates:
                    self._ask(number, candidates)
                elif not self._under_way(number):
                    break
            state = self._round(executor, number, state)
            number += 1
        self._finish(executor)
        self._note("ended")

    def _under_way(self, number: int) -> list[Trial]:
        """The trials that take part in a round: asked for in it or before, and not ended before."""
        return [
            t
            for t in self._trials.values()
            if t.batch <= number and (t.last_round is None or t.last_round >= number)
        ]

    def _next_count(self) -> int:
        """How many candidates take the places that are free."""
        config = self._plan.config
        if self._end is not None and time.monotonic() >= self._end:
            return 0
        count = config.batch or self._plan.sampler.batch or _BATCH
        count -= sum(not t.done for t in self._trials.values())
        if self._plan.trials is not None:
            count = min(count, self._plan.trials - len(self._trials))
        return max(0, count)

    def _propose(self, state: Any) -> list[Proposal]:
        """Candidates for the places that are free; before all others, the baseline."""
        count = self._next_count()
        if not count or self._exhausted:
            return []
        baseline = self._plan.baseline
        first = [] if self._trials else [Proposal(candidate=baseline, wanted=baseline)]
        tried = [
            *first,
            *(
                Proposal(candidate=t.candidate, wanted=t.wanted or t.candidate)
                for t in self._trials.values()
            ),
        ]
        if count == len(first):
            return first
        found = [*first, *propose(self._plan, state, count - len(first), tried)]
        if not found:
            self._exhausted = True
            self._note("stopped", why="the space holds no further candidate")
        return found

    def _ask(self, batch: int, proposals: Sequence[Proposal]) -> None:
        first, seed = 1 + max(self._trials, default=-1), self._plan.config.seed
        asked: list[dict[str, Any]] = [
            {"trial": first + i, **p.to_json(), "seed": trial_seed(seed, p.candidate)}
            for i, p in enumerate(proposals)
        ]
        if first == 0:
            asked[0]["baseline"] = True
        self._note("asked", batch=batch, trials=asked)

    def _round(self, executor: Runner, number: int, state: Any) -> Any:
        """Do what is left of a round, and tell the sampler of the trials that end in it.

        A trial is scored in the round in which it is asked for, and trained in it: to its end, or
        to its first rung. In each round after that it goes on to the next one, until it is stopped
        there or comes to its end; a new candidate then takes its place.
        """
        members = self._under_way(number)
        unscored = [t for t in members if not t.done and not t.measurements]
        self.report("scoring")
        costs = {o.name for o in (*self._plan.objectives, *self._plan.limits) if o.target}
        timed = bool(costs - {"memory"})  # by a clock, or a model that learns from trial to trial
        for trial, evaluation in executor.run(calls_of("score", unscored), alone=timed):
            self._note_evaluation("scored", trial, evaluation)
        self.report("training")
        self._climb(executor, number, [self._trials[t.number] for t in members])
        left = [self._trials[t.number] for t in members]
        untrained = [t for t in left if not t.done and number - t.batch == len(self._rungs(t))]
        for trial, evaluation in executor.run(calls_of("train", untrained)):
            self._note_evaluation("trained", trial, evaluation)
        self._set_references()
        if self._standing.failed >= _HOPELESS:
            check_hope(self._trials.values())
        ended = [self._trials[t.number] for t in members]
        foreign = () if self._plan.baseline_is_within else (self._plan.baseline,)
        told = [
            self._observation(t)
            for t in ended
            if t.last_round == number and not (t.baseline and t.candidate in foreign)
        ]
        return self._plan.sampler.tell(state, told)

    def _rungs(self, trial: Trial) -> tuple[int, ...]:
        if self._plan.rungs is None or trial.baseline:
            return ()
        return self._plan.rungs.of(trial.candidate)

    def _climb(self, executor: Runner, number: int, members: Sequence[Trial]) -> None:
        """Bring trials to their next rung, and stop there all but the best."""
        if self._plan.rungs is None:
            return
        by_epoch: dict[int, list[Trial]] = {}
        for trial in members:
            rung = number - trial.batch
            if not trial.done and rung < len(self._rungs(trial)):
                by_epoch.setdefault(self._rungs(trial)[rung], []).append(trial)
        for epochs, trials in sorted(by_epoch.items()):
            waiting = [t for t in trials if len(t.rungs) <= number - t.batch]
            calls = [replace(c, extra=(epochs,)) for c in calls_of("advance", waiting)]
            for trial_number, evaluation in executor.run(calls):
                self._note_rung(trial_number, evaluation)
            self._stop_some(number, epochs, [t.number for t in trials])

    def _note_rung(self, number: int, evaluation: Evaluation) -> None:
        content: dict[str, Any] = {"trial": number, "time": round(time.time(), 3)}
        if evaluation.failure is not None:
            content["failure"] = evaluation.failure.to_json()
        else:
            content["measurement"] = evaluation.measurements[0].to_json()
        self._note("reached", **content)
        if evaluation.failure is not None:
            self._standing.add(self._trials[number])
        self.report("training")

    def _stop_some(self, number: int, epochs: int, climbed: Sequence[int]) -> None:
        """Stop those that are dominated at a rung, by all that came there up to this round."""
        assert self._plan.rungs is not None
        trials, targets = self._trials.values(), self._targets.values()
        staying = self._plan.rungs.staying(trials, epochs, number, targets)
        for trial_number in climbed:
            trial = self._trials[trial_number]
            if not trial.done and trial_number not in staying:
                self._note("stopped_at", trial=trial_number, epoch=epochs)
                self._standing.add(self._trials[trial_number])

    def _note(self, event: str, **content: Any) -> None:
        """Write an event, then let it count."""
        full = {"event": event, **content}
        self._journal.append(full)
        apply_event(self._trials, full)

    def _note_evaluation(self, event: str, number: int, evaluation: Evaluation) -> None:
        found, trial = evaluation.measurements, self._trials[number]
        failure = evaluation.failure or self._violation(event, trial, found)
        kept = None
        if evaluation.weights is not None and (failure is None or trial.baseline):
            kept = self._keep_weights(trial, found, evaluation.weights)
        content: dict[str, Any] = {
            "trial": number,
            "time": round(time.time(), 3),
            "measurements": [m.to_json() for m in found],
            **({} if kept is None else {"weights": kept}),
        }
        if failure is not None:
            content["failure"] = failure.to_json()
        self._note(event, **content)
        self._standing.add(self._trials[number])
        self.report("training" if event == "trained" else "scoring")

    def _violation(self, event: str, trial: Trial, found: Sequence[Measurement]) -> Failure | None:
        """The worst limit that is broken; the baseline is trained all the same, and then judged."""
        if trial.baseline:
            found = latest(trial.measurements, tuple(found)) if event == "trained" else ()
        return worst_violation(self._plan.limits, found)

    def _keep_weights(
        self, trial: Trial, found: Sequence[Measurement], weights: Mapping[str, np.ndarray]
    ) -> str | None:
        """Keep the weights of the baseline, and of a trial that is on a front now.

        Others can be trained again.

        Returns:
            The SHA-256 of the file; None where they were not kept.
        """
        measurements = latest(trial.measurements, tuple(found))
        now = replace(trial, measurements=measurements, trained=True)
        if trial.baseline or self._standing.would_be_on_a_front(now):
            return save_weights(self._out, trial.number, weights)
        return None

    def _observation(self, trial: Trial) -> Observation:
        if trial.valid:
            losses = trial.losses(self._plan.objectives)
            return Observation(candidate=trial.candidate, losses=losses)
        if trial.stopped is not None:
            reached = losses_at(trial, -1, self._plan.objectives)
            return Observation(candidate=trial.candidate, losses=tuple(reached.tolist()))
        failure: Failure | None = trial.failure
        limited = failure is not None and failure.reason is Reason.LIMIT_EXCEEDED
        violation = failure.violation if failure is not None and limited else float("inf")
        return Observation(candidate=trial.candidate, losses=None, violation=violation)

    def _set_references(self) -> None:
        """Fix the reference point of each target's hypervolume, once there are trials for it."""
        for target, objectives in self._targets.items():
            valid = [t for t in self._trials.values() if t.valid]
            if target not in self._references and len(valid) > 1:
                losses = np.asarray([t.losses(objectives) for t in valid])
                worst, best = pareto.reference(losses)
                self._note("reference", target=target, worst=list(worst), best=list(best))
                self._references[target] = (worst, best)

    def _finish(self, executor: Runner) -> None:
        """Score the final fronts, and the baseline, with further seeds and on the test split."""
        fronts = {target: self._contenders(target) for target in self._targets}
        baseline = [t for t in self._trials.values() if t.baseline and t.trained]
        self.report("repeating")
        all_of_them = [*(t for front in fronts.values() for t in front), *baseline]
        repeat(executor, to_repeat(all_of_them, self._plan.config.final_seeds), self._note)
        self.report("testing")
        numbers = {t.number for t in baseline}
        for target, objectives in self._targets.items():
            kept = final_front(self._contenders(target), objectives, self._plan.limits)
            numbers |= {t.number for t in kept}
        metric, ordered = self._plan.metric, sorted(numbers)
        score_test(executor, self._trials, ordered, metric, self._out, self._note)

    def _contenders(self, target: str) -> list[Trial]:
        """A target's front by the search's own scores, each trial as it is now."""
        return [self._trials[t.number] for t in self._standing.front(target)]

    def report(self, phase: str) -> None:
        """Tell the progress where the search stands."""
        target, objectives = next(iter(self._targets.items()))
        on_front = self._standing.front(target)
        volume = None
        if target in self._references:
            losses = np.asarray([t.losses(objectives) for t in on_front])
            volume = pareto.relative_hypervolume(losses, *self._references[target])
        self._progress(
            Status(
                phase=phase,
                total=self._plan.trials,
                asked=len(self._trials),
                done=self._standing.valid,
                failed=self._standing.failed,
                rejected=self._standing.rejected,
                stopped=self._standing.stopped,
                front=len(on_front),
                hypervolume=volume,
                trouble=next(
                    (baseline_trouble(t) for t in self._trials.values() if t.baseline), None
                ),
            )
        )
