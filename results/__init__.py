"""What a search leaves behind: the journal, Pareto fronts, leaderboards and bundles."""

from paretax.results.bundle import Bundle, load_bundle
from paretax.results.exporting import ExportError, export_bundle
from paretax.results.journal import Journal, read_events
from paretax.results.leaderboard import leaderboard, render
from paretax.results.manifest import BrokenBundleError
from paretax.results.restoring import NotReproducedError, Reproduction, reproduce
from paretax.results.run import Run
from paretax.results.selection import Choice, choose, select
from paretax.results.trial import Trial
from paretax.results.verifying import Verification, verify_bundle

__all__ = [
    "BrokenBundleError",
    "Bundle",
    "Choice",
    "ExportError",
    "Journal",
    "NotReproducedError",
    "Reproduction",
    "Run",
    "Trial",
    "Verification",
    "choose",
    "export_bundle",
    "leaderboard",
    "load_bundle",
    "read_events",
    "render",
    "reproduce",
    "select",
    "verify_bundle",
]
