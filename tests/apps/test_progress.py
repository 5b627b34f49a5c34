"""What is shown while a run goes on: on a terminal, and in a log."""

import io

import pytest
from rich.console import Console

from clip_as_rnn.apps.cli import progress
from clip_as_rnn.apps.cli.progress import ProgressBar
from clip_as_rnn.evaluation.store import Record


def shown(*, terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
    with ProgressBar(console) as bar:
        bar.start("VOC [out]", total=4, done=1, measure="mIoU")
        bar.advance(Record("a", 0.1), 0.5)
        bar.advance(Record("b", 0.0, failure="No annotation for b [here]."), None)
    return console.file.getvalue()


def test_a_terminal_shows_how_much_is_done_the_time_left_and_the_running_score():
    said = shown(terminal=True)
    assert "VOC [out]" in said
    assert "3/4" in said
    assert "-:--:--" in said or "0:00:0" in said
    assert "mIoU" in said


@pytest.mark.parametrize("terminal", [True, False])
def test_failures_and_earlier_work_are_told_at_once(terminal):
    said = shown(terminal=terminal)
    assert "Not evaluated, b: No annotation for b [here]." in said
    assert "1 of 4 are done already." in said


def test_a_log_gets_a_line_from_time_to_time(monkeypatch):
    assert "mIoU" not in shown(terminal=False)
    monkeypatch.setattr(progress, "_LINE_INTERVAL_S", -1.0)
    assert "VOC [out]: 2 of 4, mIoU 50.00" in shown(terminal=False)


def slowly(*, terminal, seconds):
    """Show four images that take `seconds` each, of which three are done at the end."""
    now = [0.0]
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
    with ProgressBar(console, clock=lambda: now[0]) as bar:
        bar.start("VOC", total=4, done=0, measure="mIoU")
        for name in ("a", "b", "c"):
            now[0] += seconds
            bar.advance(Record(name, seconds), 0.5)
    return console.file.getvalue()


@pytest.mark.parametrize("seconds", [40, 600])
def test_the_time_left_is_told_however_long_an_image_takes(seconds):
    left = f"0:{seconds // 60:02}:{seconds % 60:02}"
    assert left in slowly(terminal=True, seconds=seconds)
    assert f"VOC: 3 of 4, mIoU 50.00, {left} left\n" in slowly(terminal=False, seconds=seconds)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_long_reason_stays_on_one_line_however_narrow_the_console(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80, color_system=None)
    reason = f"No annotation for the image b: expected {'/folder' * 20}/b.png."
    with ProgressBar(console) as bar:
        bar.start("VOC", total=4, done=0, measure="mIoU")
        bar.advance(Record("b", 0.0, failure=reason), None)
    assert f"Not evaluated, b: {reason}\n" in console.file.getvalue()
