"""What an experiment reports while it runs; the terminal's display overrides it."""

from bi_experiments.records import Event, ExperimentResult, PhaseResult, PhaseSpec, TwoStages


class Progress:
    """A receiver of what happens, in order, which ignores what it does not override.

    It must return quickly, and print nothing while a trial is timed, if it can.
    """

    def experiment_started(self, name: str, planned_phases: int, trials_per_phase: int) -> None:
        """An experiment begins; with pairs added on the way, `planned_phases` is a lower bound."""

    def phase_started(self, spec: PhaseSpec) -> None:
        """A phase's process was started."""

    def event(self, spec: PhaseSpec, event: Event) -> None:
        """A phase reported something."""

    def phase_ended(self, spec: PhaseSpec, result: PhaseResult) -> None:
        """A phase's process is gone."""

    def first_stage_ended(self, stages: TwoStages) -> None:
        """The first of two stages is over, and how many pairs there will be is known."""

    def experiment_ended(self, result: ExperimentResult) -> None:
        """All phases are over and analysed."""


class NoProgress(Progress):
    """A receiver that ignores everything."""
