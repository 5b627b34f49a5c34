"""Ray made up, in one process: actors run when they are waited for, and die where a test says so."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class RayActorError(Exception):
    """An actor died."""


class RayTaskError(Exception):
    """An actor raised `cause`."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("a remote traceback")
        self.cause = cause


class FakeRay:
    """Stands in for the module `ray`; `dies` is asked before each call whether its actor dies of it."""

    def __init__(self, resources: dict[str, float], dies: Callable[[str, tuple[Any, ...]], bool]) -> None:
        self.exceptions = SimpleNamespace(RayActorError=RayActorError, RayTaskError=RayTaskError)
        self.resources, self.dies = resources, dies
        self.started: list[dict[str, Any]] = []
        self.options_given: list[dict[str, Any]] = []
        self.most_waiting, self.hired = 0, 0
        self.is_up = False

    def init(self, **options: Any) -> None:
        self.started.append(options)
        if options["address"] == "ray://nowhere":
            raise ConnectionError("Could not connect.\nMore about it.")
        self.is_up = True

    def shutdown(self) -> None:
        self.is_up = False

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, worker: type) -> "_Hiring":
        return _Hiring(self, worker)

    def wait(
        self, promises: list["_Promise"], num_returns: int, timeout: float | None = None
    ) -> tuple[list["_Promise"], list["_Promise"]]:
        if timeout is not None:
            return [promise for promise in promises if promise.keep() is None], []
        self.most_waiting = max(self.most_waiting, len(promises))
        return promises[:num_returns], promises[num_returns:]  # an actor keeps its promises in their order

    def get(self, promise: "_Promise") -> Any:
        return promise.keep()


class _Hiring:
    def __init__(self, ray: FakeRay, worker: type) -> None:
        self._ray, self._worker = ray, worker

    def options(self, **options: Any) -> "_Hiring":
        self._ray.options_given.append(options)
        return self

    def remote(self, *arguments: Any) -> "_Actor":
        self._ray.hired += 1
        return _Actor(self._ray, lambda: self._worker(*arguments))


class _Actor:
    def __init__(self, ray: FakeRay, make: Callable[[], Any]) -> None:
        self.ray, self.make, self.worker = ray, make, make()
        self.lives = 0

    def __getattr__(self, name: str) -> Any:
        method = SimpleNamespace(remote=lambda *arguments: _Promise(self, name, arguments, self.lives))
        method.options = lambda **_: method
        return method


class _Promise:
    def __init__(self, actor: _Actor, name: str, arguments: tuple[Any, ...], life: int) -> None:
        self._actor, self._name, self._arguments, self._life = actor, name, arguments, life

    def keep(self) -> Any:
        if self._life == self._actor.lives and self._actor.ray.dies(self._name, self._arguments):
            self._actor.lives += 1
            self._actor.worker = self._actor.make()
        if self._life != self._actor.lives:  # what it had in hand goes with it
            raise RayActorError("The actor died.\nMore about it.")
        try:
            return getattr(self._actor.worker, self._name)(*self._arguments)
        except Exception as error:
            raise RayTaskError(error) from error
