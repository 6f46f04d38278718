"""A function in another process: its result, its errors, its events, and its end."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.utils import processes
from pipeline.utils.environment import THREAD_VARIABLES
from pipeline.utils.errors import RunFailure, UserError
from pipeline.utils.processes import Child, ProcessError, call, log_tail, run_command


def whoami(value):
    return value, os.getpid(), {name: os.environ.get(name) for name in ("USE_TORCH", "USE_TF", *THREAD_VARIABLES)}


def refuse(kind, *arguments):
    print("about to refuse")
    raise kind(*arguments)


class RowError(UserError):
    """An error with a constructor of its own, as a caller may write one."""

    def __init__(self, row, *, reason):
        super().__init__(f"row {row}: {reason}", arguments=("recipe",))
        self.row = row


def where():
    return os.environ.get("MARK"), os.environ["PYTHONPATH"].split(os.pathsep)


def refuse_row():
    raise RowError(7, reason="has no label")


def refuse_argument():
    raise UserError("there is a run already", arguments=("out", "overwrite"))


def count_down(send, number):
    for left in range(number, 0, -1):
        send(left)
    return "lift-off"


def die(code):
    print("a last line")
    sys.stdout.flush()
    os._exit(code)


def crash():
    """Ends as native code does that crashes, and as a process does that the system kills for its memory."""
    print("a last line")
    sys.stdout.flush()
    os.abort()


def sleep_with_a_child(send):
    """Sleeps, as does a process that it starts."""
    send(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid)
    time.sleep(60)


def start_a_child_and_a_command(log):
    """The program of a process that is killed: it writes the ids of what it started, a function and a command."""
    with Child(sleep_with_a_child_of_its_own, sends_events=True) as child:
        print(*child.next_event(timeout=30), flush=True)
        program = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
        run_command([sys.executable, "-c", program], Path(log))


def sleep_with_a_child_of_its_own(send):
    """Sleeps, as does a function that it calls in another process."""
    with Child(sleep_and_tell, sends_events=True) as child:
        send((os.getpid(), child.next_event(timeout=30)))
        child.result()


def sleep_and_tell(send):
    send(os.getpid())
    time.sleep(60)


def has_ended(pid):
    """Whether a process is gone, or dead and not yet collected by its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(condition, seconds=10.0):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


def test_a_function_runs_in_a_process_of_its_own_kept_to_its_framework():
    value, pid, variables = call(whoami, {"a": [1, 2.5]}, framework="tensorflow")
    assert value == {"a": [1, 2.5]} and pid != os.getpid()
    assert (variables["USE_TORCH"], variables["USE_TF"]) == ("0", "1")
    assert {variables[name] for name in THREAD_VARIABLES} == {os.environ["OMP_NUM_THREADS"]}


@pytest.mark.parametrize("kind", [UserError, RunFailure])
def test_an_error_that_explains_itself_comes_back_as_it_is(kind):
    with pytest.raises(kind, match="^no rows$"):
        call(refuse, kind, "no rows")


def test_the_arguments_that_an_error_speaks_of_come_back_too():
    with pytest.raises(UserError) as refused:
        call(refuse_argument)
    assert refused.value.arguments == ("out", "overwrite")


def test_any_other_error_comes_back_as_the_end_of_the_log():
    with pytest.raises(ProcessError, match="(?s)about to refuse.*KeyError: 'x'$"):
        call(refuse, KeyError, "x")


def test_a_process_that_dies_leaves_its_last_lines():
    with pytest.raises(ProcessError, match="^a last line$"):
        call(die, 3)


def test_a_process_that_crashes_is_said_to_have_been_ended_by_a_signal():
    with pytest.raises(RunFailure, match="^a last line\nthe process was ended by signal 6$"):
        call(crash)


def test_events_come_in_order_before_the_result():
    with Child(count_down, 3, sends_events=True) as child:
        events = []
        while not child.has_ended:
            event = child.next_event(timeout=30)
            events += [] if event is None else [event]
        assert events == [3, 2, 1]
        assert child.result() == "lift-off"


def test_the_result_can_be_asked_for_without_reading_the_events():
    with Child(count_down, 1000, sends_events=True) as child:
        assert child.result() == "lift-off"


@pytest.mark.parametrize("how", ["killed", "left", "interrupted"])
def test_a_process_ends_with_all_that_it_started(how):
    try:
        with Child(sleep_with_a_child, sends_events=True) as child:
            grandchild = child.next_event(timeout=30)
            assert not has_ended(grandchild)
            if how == "killed":
                child.kill()
                assert child.next_event(timeout=5) is None and child.has_ended
                with pytest.raises(RunFailure, match="ended by signal 9"):
                    child.result()
            elif how == "interrupted":
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert how == "interrupted"
    assert wait_until(lambda: has_ended(grandchild))


def test_everything_that_was_started_ends_when_its_process_is_killed(tmp_path):
    """With SIGKILL, which leaves a process no time to end anything; also what a started process has started."""
    program = f"from tests.utils.test_processes import *; start_a_child_and_a_command({str(tmp_path / 'log')!r})"
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    child, grandchild = map(int, parent.stdout.readline().split())
    assert wait_until(lambda: log_tail(tmp_path / "log").strip().isdecimal(), seconds=30)
    command = int(log_tail(tmp_path / "log"))
    assert not any(map(has_ended, (child, grandchild, command)))
    parent.kill()
    parent.communicate()
    for pid in (child, grandchild, command):
        assert wait_until(lambda pid=pid: has_ended(pid))


def test_files_of_the_user_named_like_modules_of_ours_do_not_stand_in_their_way(tmp_path):
    """Neither for a function in a process of its own nor for a command; a module of another name is found there."""
    for name in ("pipeline", "recipes", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    (tmp_path / "mine.py").write_text("def ours():\n    import pipeline, recipes\n    return 'found'\n")
    program = (
        "import os, sys; sys.path.append(os.getcwd()); from pathlib import Path; import mine\n"
        "from pipeline.utils.processes import call, log_tail, run_command\n"
        "print(call(mine.ours)); log = Path('log')\n"
        "print(run_command([sys.executable, '-m', 'pipeline', 'list'], log), log_tail(log))"
    )
    places = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(pytest.__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": places, "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.startswith("found\n0 ") and "sentiment_bert" in done.stdout, done.stderr


def test_a_command_writes_its_log_and_gives_its_exit_code(tmp_path):
    log = tmp_path / "log"
    program = "import sys; print(*range(100), sep='\\n'); sys.exit(5)"
    assert run_command([sys.executable, "-c", program], log) == 5
    assert log_tail(log, lines=2) == "98\n99"
    assert log_tail(log, lines=2, most=3) == "\n99"
    assert log_tail(tmp_path / "none") == ""


def test_a_new_process_finds_the_same_modules_and_may_choose_its_framework(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("USE_TORCH", "1")
    environment = processes.child_environment()
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path.resolve())
    assert "USE_TORCH" not in environment


def test_an_error_with_a_constructor_of_its_own_comes_back_as_it_was():
    with pytest.raises(RowError) as caught:
        call(refuse_row)
    assert (str(caught.value), caught.value.row, caught.value.arguments) == ("row 7: has no label", 7, ("recipe",))


def test_each_framework_has_the_python_that_its_variable_names_with_its_own_packages(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nMARK=other exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("TWINSTEP_PYTHON_TENSORFLOW", str(python))
    monkeypatch.delenv("TWINSTEP_PYTHON_TORCH", raising=False)
    (mark, places), (_, own_places) = call(where, framework="tensorflow"), call(where, framework="torch")
    assert mark == "other"
    # The code of the project is the same; installed packages are not.
    assert str(Path(__file__).parents[2]) in places
    assert any("site-packages" in place for place in own_places)
    assert not any("site-packages" in place for place in places)


def test_a_variable_that_names_no_python_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TWINSTEP_PYTHON_TORCH", str(tmp_path / "python"))
    with pytest.raises(UserError, match=r"TWINSTEP_PYTHON_TORCH in the environment is .*, but must be the path"):
        call(where, framework="torch")
