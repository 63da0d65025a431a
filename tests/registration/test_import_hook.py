"""Callbacks on import, tried on packages that the tests write, in this process."""

import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

from hafm_hf.registration.import_hook import ImportWatcher

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules of the package `watched`, and forgets them and every watcher behind the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    finders = list(sys.meta_path)
    (tmp_path / "watched").mkdir()
    (tmp_path / "watched" / "__init__.py").touch()

    def write_modules(**sources: str) -> None:
        for name, source in sources.items():
            (tmp_path / "watched" / f"{name}.py").write_text(source)

    yield write_modules
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name.partition(".")[0] == "watched"]:
        del sys.modules[name]


def watch(calls: list[str], *names: str) -> ImportWatcher:
    callbacks = {f"watched.{name}": partial(calls.append, name) for name in names}
    watcher = ImportWatcher(callbacks, packages=["watched"])
    watcher.start()
    return watcher


def test_callback_comes_once_and_only_with_its_module(write: Write) -> None:
    write(first="", second="")
    calls: list[str] = []
    watcher = watch(calls, "first", "second")
    import_module("watched")
    assert calls == []
    import_module("watched.first")
    import_module("watched.first")
    assert calls == ["first"] and watcher in sys.meta_path
    import_module("watched.second")
    assert calls == ["first", "second"] and watcher not in sys.meta_path


def test_callback_comes_at_once_when_the_module_is_there(write: Write) -> None:
    write(first="")
    import_module("watched.first")
    calls: list[str] = []
    assert watch(calls, "first") not in sys.meta_path
    assert calls == ["first"]


def test_callback_waits_for_the_outermost_import(write: Write) -> None:
    write(outer="import watched.inner\nready = True", inner="")
    seen: list[bool] = []
    outer = {"watched.inner": lambda: seen.append(import_module("watched.outer").ready)}
    ImportWatcher(outer, packages=["watched"]).start()
    import_module("watched.outer")
    assert seen == [True]


def test_what_a_callback_imports_calls_the_others_back(write: Write) -> None:
    write(first="", second="")
    calls: list[str] = []

    def first() -> None:
        calls.append("first")
        import_module("watched.second")

    callbacks: dict[str, Callable[[], None]] = {
        "watched.first": first,
        "watched.second": partial(calls.append, "second"),
    }
    ImportWatcher(callbacks, packages=["watched"]).start()
    import_module("watched.first")
    assert calls == ["first", "second"]


def test_failed_imports_and_lookups_change_nothing(write: Write) -> None:
    write(first="raise RuntimeError('broken')", second="")
    calls: list[str] = []
    watch(calls, "first", "second")
    with pytest.raises(RuntimeError, match="broken"):
        import_module("watched.first")
    with pytest.raises(ModuleNotFoundError, match=r"watched\.absent"):
        import_module("watched.absent")
    assert calls == []
    import_module("watched.second")
    assert calls == ["second"]


def test_callback_that_raises_fails_the_import_and_is_called_again(write: Write) -> None:
    write(first="")
    attempts: list[int] = []

    def callback() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise RuntimeError("not yet")

    watcher = ImportWatcher({"watched.first": callback}, packages=["watched"])
    watcher.start()
    with pytest.raises(RuntimeError, match="not yet"):
        import_module("watched.first")
    import_module("watched.first")
    assert len(attempts) == 2 and watcher not in sys.meta_path


def test_modules_keep_their_loader_and_source(write: Write) -> None:
    write(first="answer = 42")
    watch([], "first")
    loader = import_module("watched.first").__loader__
    assert isinstance(loader, SourceFileLoader)
    assert loader.get_source("watched.first") == "answer = 42"


def test_module_in_the_making_in_another_thread_is_not_complete(write: Write) -> None:
    write(slow="import watched\nwatched.began.set()\nwatched.go_on.wait(10)\nready = True", quick="")
    package = import_module("watched")
    package.began, package.go_on = threading.Event(), threading.Event()  # type: ignore[attr-defined]
    seen: list[tuple[str, bool]] = []

    def callback() -> None:
        seen.append((threading.current_thread().name, hasattr(sys.modules["watched.slow"], "ready")))

    ImportWatcher({"watched.slow": callback}, packages=["watched"]).start()
    thread = threading.Thread(target=import_module, args=("watched.slow",), name="slow")
    thread.start()
    assert package.began.wait(10)
    import_module("watched.quick")
    assert seen == []
    package.go_on.set()
    thread.join(10)
    assert seen == [("slow", True)]
