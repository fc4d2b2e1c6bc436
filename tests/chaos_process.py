"""The ordinary command `broadcaster`, in a process that ends itself with SIGKILL at a named step.

    {"blow": {"at": "broadcaster.store.recipients:write_down", "moment": "before", "nth": 3, "with": {}}, "set": {}}

`at` names a function as the product finds it when it calls it: `module:name`, `module:Class.method`, or `module:os.name`
for what a module calls in the standard library. `moment` is *before* the real call, *after* it (of a coroutine: after it
has been awaited), or *half*: after half of what the call writes. `with` narrows the calls that count: the value that an
argument's attribute must have; under the name `text` what the first argument must contain; under `items` how many things
a list among the arguments must hold. `set` puts values in the place of constants, so that a small run meets what else
takes 10,000 readers.

Processes are forked from one that has imported everything and done nothing: most of a start is importing, and the matrix
starts a thousand of them.

Why here: the product has no hook, and a blow from outside cannot be timed between two lines.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import os
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import broadcaster.rehearsal.town
import broadcaster.scheduler
import broadcaster.start
import broadcaster.web  # noqa: F401 - what the roles would import when they start
from broadcaster.cli import main
from broadcaster.store.recipients import Record

_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])
_TURN = threading.Lock()
"""`multiprocessing` looks after all its children whenever it starts one, and an end can be read only once."""


class Child:
    """A process of the command, with the methods of `subprocess.Popen` that a town needs."""

    def __init__(
        self, arguments: Sequence[str], orders: Mapping[str, Any], environment: Mapping[str, str], log: Path
    ) -> None:
        self._process = _FORKS.Process(
            target=live, args=(list(arguments), dict(orders), dict(environment), str(log)), name=arguments[0]
        )
        with _TURN:
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        with _TURN:
            return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float) -> int:
        """Raises TimeoutExpired."""
        wait([self._process.sentinel], timeout)  # without the turn: others start and end meanwhile
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return code


def live(arguments: list[str], orders: dict[str, Any], environment: dict[str, str], log: str) -> None:
    """The life of a child."""
    os.environ.clear()
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["broadcaster", *arguments]
    for constant, value in orders.get("set", {}).items():
        setattr(*place(constant), value)
    if "blow" in orders:
        arm(orders["blow"])
    main()


def resolve(name: str) -> Any:
    """What stands there. Raises AttributeError for a name that there is not."""
    module_name, _, path = name.partition(":")
    return functools.reduce(getattr, path.split("."), importlib.import_module(module_name))


def place(name: str) -> tuple[Any, str]:
    """Where a name stands: the object and its attribute."""
    resolve(name)
    module_name, _, path = name.partition(":")
    owner: Any = importlib.import_module(module_name)
    *outer, last = path.split(".")
    for part in outer:
        inner = getattr(owner, part)
        if inspect.ismodule(inner):
            inner = types.SimpleNamespace(**vars(inner))  # this module's view of it, and nobody else's
            setattr(owner, part, inner)
        owner = inner
    return owner, last


def arm(blow: Mapping[str, Any]) -> None:
    owner, name = place(blow["at"])
    setattr(owner, name, _struck(getattr(owner, name), blow))


def _struck(real: Callable[..., Any], blow: Mapping[str, Any]) -> Callable[..., Any]:
    moment, nth, wanted = blow["moment"], int(blow["nth"]), blow.get("with", {})
    calls = itertools.count(1)

    def is_it(arguments: tuple[Any, ...]) -> bool:
        return all(map(functools.partial(_fits, arguments), wanted.items())) and next(calls) == nth

    @functools.wraps(real)
    def call(*arguments: Any, **named: Any) -> Any:
        struck = is_it(arguments)
        if struck and moment == "before":
            end()
        if struck and moment == "half":
            *others, content = arguments
            real(*others, content[: len(content) // 2], **named)
            end()
        result = real(*arguments, **named)
        if struck:
            end()
        return result

    @functools.wraps(real)
    async def awaited(*arguments: Any, **named: Any) -> Any:
        struck = is_it(arguments)
        if struck and moment == "before":
            end()
        result = await real(*arguments, **named)
        if struck:
            end()
        return result

    return awaited if inspect.iscoroutinefunction(real) else call


def _fits(arguments: tuple[Any, ...], wanted: tuple[str, Any]) -> bool:
    name, value = wanted
    if name == "text":
        return any(value in str(argument) for argument in arguments[:1])
    if name == "items":
        return any(len(argument) >= value for argument in arguments if isinstance(argument, list | Record))
    return any(getattr(argument, name, None) == value for argument in arguments)


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
