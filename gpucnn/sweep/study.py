"""The study in its folder: which training is next, and which a killed worker has left."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from gpucnn.errors import CheckpointError, ConfigurationError
from gpucnn.extras import install
from gpucnn.schema import difference
from gpucnn.storage import as_path, decoding, drop_half_line, locked, make_folder
from gpucnn.sweep.plan import Plan

# The test images choose nothing: trainings are compared on this part, unless the plan's arguments name another.
VALIDATION = "--validation=0.1"
_PATIENCE = 60.0  # seconds, of a worker beside others
# Typer's, around an error; the last three in ASCII.
_BOX = re.compile(r"^[ ╭╮╰╯│─]+|[ ╭╮╰╯│─]+$|^\+-.*-\+$|^\| +| +\|$")


class Sweep:
    """The sweep in the folder at `path`, made for `plan` if there is none yet.

    The folder holds journal.log, which is Optuna's, and runs/ with a run folder for each training. Raises
    ConfigurationError without Optuna, for a sweep with another plan, and for a folder without a sweep and no plan,
    CheckpointError for a journal that is damaged.
    """

    def __init__(self, path, plan: Plan | None = None):
        self.path = as_path(path)
        try:
            import optuna
        except ImportError:
            raise ConfigurationError(f"a sweep needs Optuna: {install('sweep')}") from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._states, self._again = optuna.trial.TrialState, optuna.trial.Trial
        journal = self.path / "journal.log"
        if plan is None and not journal.exists():
            raise ConfigurationError(f"{self.path} holds no sweep; say what to try, such as --seed 0,1,2")
        make_folder(self.path / "runs")
        with (  # one after the other, where jobs of an array start together
            self._turn(),
            decoding(journal, CheckpointError, "journal of a sweep"),
        ):
            journals = optuna.storages.journal  # Windows lets few users make a symbolic link
            kind = journals.JournalFileOpenLock if os.name == "nt" else journals.JournalFileSymlinkLock
            lock = kind(str(journal))
            backend = optuna.storages.journal.JournalFileBackend(str(journal), lock)
            lock.acquire()
            try:
                drop_half_line(journal)  # or the next line would be spoilt
            finally:
                lock.release()
            self.study = optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                study_name="sweep",
                load_if_exists=True,
                sampler=optuna.samplers.TPESampler(),
            )
            self.plan = self._agreed(plan)

    def _turn(self) -> AbstractContextManager:
        """Within it no other worker takes a training or chooses what is in it."""
        return locked(self.path / "sweep.lock", self.path, "another worker is busy there; try again", _PATIENCE)

    def _agreed(self, plan: Plan | None) -> Plan:
        kept = self.study.user_attrs.get("plan")
        if kept is not None:
            if plan is not None and (changed := difference(kept, plan.settings())):
                raise ConfigurationError(f"{self.path} is a sweep with another plan: {changed}; choose another folder")
            settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}
            plan = Plan(**settings)
        elif plan is None:
            raise ConfigurationError(f"{self.path} holds no sweep; say what to try, such as --seed 0,1,2")
        else:
            self.study.set_user_attr("plan", plan.settings())
        there = self.study.get_trials(deepcopy=False)
        entered = {frozenset(trial.system_attrs.get("fixed_params", {}).items()) for trial in there}
        for combination in plan.grid():  # a worker may have been killed before it had entered all
            if frozenset(combination.items()) not in entered:
                self.study.enqueue_trial(combination)
        return plan

    # ---- a worker ----------------------------------------------------------------------------------------------------

    def work(self, threads: int | None = None, say: Callable[[str], None] = lambda text: None) -> None:
        """Train until nothing is left, this worker's trainings one after the other."""
        while (trial := self._waiting()) is not None:
            self._run(trial, threads, say)
        for begun in self._running():
            self._run(begun, threads, say)

    def try_again(self) -> None:
        """Take up what failed, in the next `work`: the disk may have room now, or the data be there."""
        for trial in self._running():
            if trial.user_attrs.get("failed"):
                trial.set_user_attr("failed", None)

    def _running(self) -> list:
        """The trials that have begun and not succeeded. A failure does not end one: its reason may be gone later."""
        begun = self.study.get_trials(deepcopy=False, states=(self._states.RUNNING,))
        return [self._again(self.study, trial._trial_id) for trial in begun]

    def _waiting(self):
        """The next trial that nobody has begun; None if there is none."""
        with self._turn():  # two workers that saw the last one waiting would make two of it
            taken = len([t for t in self.study.get_trials(deepcopy=False) if t.state != self._states.WAITING])
            return self.study.ask() if taken < self.plan.size() else None

    def _run(self, trial, threads: int | None, say: Callable[[str], None]) -> None:
        """One training, unless another worker is at it; it continues where a killed worker left it."""
        with self._turn():  # two workers that chose a rate would choose two
            if self._now(trial).state != self._states.RUNNING:  # it has ended since it was listed
                return
            settings = self.plan.suggest(trial)
        folder = self.folder(trial.number, settings)
        with ExitStack() as stack:
            try:
                stack.enter_context(
                    locked(folder.with_name(folder.name + ".lock"), folder, "another worker trains there")
                )
            except ConfigurationError:
                return
            now = self._now(trial)
            if now.state == self._states.RUNNING and not now.user_attrs.get("failed"):
                say(f"training {folder.name}")
                self._tell(trial, self._train(folder, settings, threads), say)

    def _now(self, trial):
        """The trial as the journal has it now."""
        return self.study.get_trials(deepcopy=False)[trial.number]

    def folder(self, number: int, settings: dict) -> Path:
        """The run folder of a trial."""
        return self.path / "runs" / f"{number:03}-{settings['model']}-lr{settings['lr']:.3g}-seed{settings['seed']}"

    def _train(self, folder: Path, settings: dict, threads: int | None) -> dict[str, Any]:
        """What `gpucnn train --json` printed, or {"failed": the last line that says something, without its box}."""
        chosen = [f"--{name}={value}" for name, value in settings.items()]
        begun = (folder / "config.json").exists()
        options = [VALIDATION, *([f"--threads={threads}"] if threads else []), *self.plan.arguments, *chosen]
        command = [sys.executable, "-m", "gpucnn", "train", *options, f"--run={folder}", "--json"]
        done = subprocess.run([*command, *["--resume"] * begun], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return json.loads(done.stdout)
        if done.returncode == 2:
            lines = [_BOX.sub("", line) for line in done.stderr.splitlines()]
            return {"failed": next(filter(None, reversed(lines)), "no reason was given").removeprefix("gpucnn: ")}
        raise ConfigurationError(f"a training ended with exit code {done.returncode}: {done.stderr[-300:]}")

    def _tell(self, trial, result: dict[str, Any], say: Callable[[str], None]) -> None:
        for name, value in result.items():
            trial.set_user_attr(name, value)
        if "failed" in result:
            say(f"training {trial.number} failed: {result['failed']}")
        else:
            self.study.tell(trial, result["validation_loss"])
