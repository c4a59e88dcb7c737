"""The lab report of runs: ``report.md`` and a page that needs nothing else, ``report.html``."""

from lightning_adls.labs.lab_report.writing import write_report

__all__ = ["write_report"]
