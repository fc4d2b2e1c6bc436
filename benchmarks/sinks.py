"""Where mail goes in a bench, and the limit beside which it is measured: Postfix's own test programs, and a real Postfix.

    with smtp_sink() as sink:                      # takes everything, keeps nothing; on the second processor
        limit = smtp_source("127.0.0.1", sink.port, messages=60_000)      # Sample
    with postfix() as relay:                       # a private instance; throws away what it has queued, by default
        ...                                        # hand mails to relay.port
        relay.drained()                            # until the queue is empty

smtp-source is what a sender in C reaches that neither pipelines nor makes a mail of each reader's own: it sends the same
bytes again and again. All three come from Debian's package `postfix`; nothing of an installed Postfix is touched.
"""

from __future__ import annotations

import email
import email.policy
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

from benchmarks.rounds import Missing, Sample, finished, free_port, listens, pinned, running, tool, until

CLIENT_CPU, SINK_CPU = 0, 1
SESSIONS = 20
SIZE = 2_900
"""Bytes of smtp-source's payload: with its few headers as long on the wire as the product's sample notice (3 KB)."""


# smtp-sink, smtp-source


@dataclass(frozen=True, kw_only=True)
class Sink:
    port: int
    pid: int


@contextmanager
def smtp_sink(
    port: int = 0, *, cpu: int | None = SINK_CPU, dump: Path | None = None, pipelining: bool = True, wait_s: int = 0
) -> Iterator[Sink]:
    """Takes every mail at once, or `wait_s` whole seconds after DATA. `dump`: a file for each in this folder (slow)."""
    port = port or free_port()
    arguments: list[str | Path] = [tool("smtp-sink", debian="postfix")]
    if os.geteuid() == 0:
        arguments += ["-u", "nobody"]  # it refuses to be root
    if not pipelining:
        arguments += ["-p"]
    if wait_s:
        arguments += ["-w", str(wait_s)]
    if dump is not None:
        dump.mkdir(parents=True, exist_ok=True)
        dump.chmod(0o777)  # for nobody
        arguments += ["-d", f"{dump}/mail."]
    arguments += [f"127.0.0.1:{port}", "1024"]
    # Without a terminal it has nothing to say but what went wrong; a client that leaves in a hurry is no news.
    log = Path(os.devnull)
    with running(arguments, log=log, ready=lambda: listens(port), cpu=cpu) as process:
        yield Sink(port=port, pid=process.pid)


def dumped(folder: Path) -> list[EmailMessage]:
    """What a sink with `dump` has taken; its own remarks stand in X-headers (X-Rcpt-Args: the envelope)."""
    return [
        email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in sorted(folder.iterdir())
    ]


def smtp_source(
    host: str,
    port: int,
    *,
    messages: int,
    sessions: int = SESSIONS,
    size: int = SIZE,
    cpu: int | None = CLIENT_CPU,
    seconds: float = 600,
    recipient: str = "reader@mail-0.example",
) -> Sample:
    """The same mail `messages` times, over connections that stay open. Its seconds hold its start (some ms)."""
    program = tool("smtp-source", debian="postfix")
    envelope = ["-f", "bulk@mail.example.jp", "-t", recipient, "-M", "mail.example.jp"]
    options = ["-d", "-s", str(sessions), "-m", str(messages), "-l", str(size), *envelope]
    _, took, cpu_s = finished([program, *options, f"{host}:{port}"], seconds=seconds, cpu=cpu)
    return Sample(units=messages, seconds=took, cpu_s=cpu_s)


# Postfix

_MAIN = {
    "compatibility_level": "3.6",
    "myhostname": "relay.test",
    "mydestination": "",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "ipv4",
    "mynetworks": "127.0.0.0/8",
    "smtpd_relay_restrictions": "permit_mynetworks,reject",
    "smtpd_peername_lookup": "no",
    "disable_dns_lookups": "yes",
    "smtp_host_lookup": "native",
    "smtputf8_enable": "no",
    "default_transport": "discard:",
    "message_size_limit": "10240000",
    "alias_maps": "",
    "alias_database": "",
    "local_recipient_maps": "",
}

# service, type, private, unprivileged, chroot, wakeup, most processes, command
_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
smtp unix - - n - - smtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
showq unix n - n - - showq
postlog unix-dgram n - n - 1 postlogd
"""

_QUEUES = ("maildrop", "incoming", "active", "deferred")


@dataclass(frozen=True, kw_only=True)
class Postfix:
    port: int
    pid: int  # of its master
    queue: Path

    def waiting(self) -> int:
        """Mails that it has taken and not passed on."""
        return sum(_files(self.queue / name) for name in _QUEUES)

    def active(self) -> int:
        """Those that its queue manager has before it; the others wait for a place among them."""
        return _files(self.queue / "active")

    def drained(self, *, within_s: float = 120) -> None:
        """Until nothing waits. Raises TimeoutError."""
        until(lambda: self.waiting() == 0, f"{self.waiting()} mails wait in the relay", within_s)


def _files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


@contextmanager
def postfix(*, port: int = 0, cpu: int | None = SINK_CPU, **settings: str) -> Iterator[Postfix]:
    """A private instance in a temporary folder, with PIPELINING; `settings` as in main.cf, above those it has here.

    By default it throws away what it has queued; `default_transport="smtp", relayhost="[127.0.0.1]:2525"` passes it
    on. Raises Missing without Postfix, and for anybody but root, as whom its master must start."""
    program = tool("postfix", debian="postfix")
    if os.geteuid() != 0:
        raise Missing("A Postfix of one's own is started by root only: run this bench as root.")
    folder = Path(tempfile.mkdtemp(prefix="relay", dir="/var/tmp"))
    try:
        folder.chmod(0o711)  # it works as a user of its own
        with _started(program, folder, port or free_port(), cpu, settings) as started:
            yield started
    finally:
        shutil.rmtree(folder)


@contextmanager
def _started(program: str, folder: Path, port: int, cpu: int | None, settings: Mapping[str, str]) -> Iterator[Postfix]:
    config, queue, data = (folder / name for name in ("config", "queue", "data"))
    for made in (config, queue, data):
        made.mkdir()
    shutil.chown(data, "postfix")
    main = {**_MAIN, **settings, "queue_directory": str(queue), "data_directory": str(data)}
    (config / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in main.items()), encoding="utf-8")
    (config / "master.cf").write_text(_MASTER.format(port=port), encoding="utf-8")
    _say(program, config, "start", cpu)
    pid = int((queue / "pid" / "master.pid").read_text())
    try:
        until(lambda: listens(port), "Postfix does not listen")
        yield Postfix(port=port, pid=pid, queue=queue)
    finally:
        _say(program, config, "stop", cpu)
        until(lambda: not _lives(pid), "Postfix does not stop")


def _say(program: str, config: Path, command: str, cpu: int | None) -> None:
    """Its script writes into the system's log, and to the terminal where there is one."""
    done = subprocess.run(
        [program, "-c", str(config), command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        preexec_fn=pinned(cpu),
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"postfix {command}: {done.stdout.decode(errors='replace')[-2000:]}")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
