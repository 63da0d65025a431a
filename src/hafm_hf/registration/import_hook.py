"""Runs a function as soon as a module has been imported, without importing it.

Off the path of the data: `registration` waits with it for transformers' Auto classes, so that `import hafm_hf` loads
neither transformers nor torch.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class ImportWatcher(MetaPathFinder):
    """Calls back once for each awaited module, when the outermost import that loaded it is through.

    Not at the end of the awaited module itself: it may have been imported by one that is still half initialised and
    that the callback needs. Modules of `packages` count as nested in each other; everything is left to the finders
    and loaders that are there already.

    Args:
        callbacks: what to call for which module; a callback that raises makes that import fail.
        packages: top-level packages whose imports are watched, that of the callbacks' own code included.
    """

    def __init__(self, callbacks: Mapping[str, Callable[[], None]], packages: Sequence[str]) -> None:
        self.waiting = dict(callbacks)
        self.packages = frozenset(packages)
        self._thread = threading.local()

    def start(self) -> None:
        """Calls back for what is imported already, and waits for the rest."""
        with self._nested():
            self._call_back()
        if self.waiting:
            sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Waits no more."""
        self.waiting.clear()
        with suppress(ValueError):
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders have for `fullname`, its loader made to report when it is done."""
        if fullname.partition(".")[0] not in self.packages:
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec = None if finder is self or find is None else find(fullname, path, target)
            if spec is not None:
                self._report_execution(spec.loader)
                return spec
        return None

    def _report_execution(self, loader: Any) -> None:
        execute = getattr(loader, "exec_module", None)
        if execute is None or getattr(execute, "reports_to", None) is self:
            return

        def exec_module(module: ModuleType) -> None:
            with self._nested() as outermost:
                execute(module)
                if outermost:
                    self._call_back(module.__name__)

        exec_module.reports_to = self  # type: ignore[attr-defined]
        # on the instance, so that the loader stays the object that inspect, linecache and importlib.resources expect
        with suppress(AttributeError):
            loader.exec_module = exec_module

    @contextmanager
    def _nested(self) -> Iterator[bool]:
        """One import inside another of the same thread; whether it is the outermost."""
        depth = getattr(self._thread, "depth", 0)
        self._thread.depth = depth + 1
        try:
            yield depth == 0
        finally:
            self._thread.depth = depth

    def _call_back(self, executed: str | None = None) -> None:
        """Calls back for every awaited module that is complete; `executed` is, though its import is not quite over."""
        # again, because a callback's own imports may load what another one waits for
        while ready := [name for name in list(self.waiting) if name == executed or _is_complete(name)]:
            for name in ready:
                if callback := self.waiting.get(name):
                    callback()
                self.waiting.pop(name, None)
        if not self.waiting:
            self.stop()


def _is_complete(name: str) -> bool:
    module = sys.modules.get(name)
    # a module that another thread is in the middle of importing stands in sys.modules too
    return module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False)
