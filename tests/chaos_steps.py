"""The steps of the crash matrix: where a process dies, and what is going on at that moment."""

from __future__ import annotations

from datetime import timedelta

from broadcaster.store import plans
from broadcaster.store.deliveries import BOARD, PUSH
from tests.chaos_run import Broken, Run, Scene, Step, Work

# What is going on


async def a_bulk(run: Run) -> None:
    run.slow_relay(run.dice.uniform(0, 0.05))
    run.notice("email", "rss")


async def an_alert_on_all_media(run: Run) -> None:
    run.alert()


async def a_notice_with_a_post(run: Run) -> None:
    run.notice("email", "x", "rss")


async def an_alert_into_a_bulk(run: Run) -> None:
    run.slow_relay(0.05)
    run.notice("email", "rss")
    await run.arrived(run.dice.randint(1, 50))
    run.alert()


async def a_cancelled_bulk(run: Run) -> None:
    """Once more when a busy machine had nothing left in hand at which the sender could die."""
    run.slow_relay(0.1)
    for _ in range(3):
        identifier = run.notice("email", "rss")
        await run.arrived(run.town.arrived() + run.dice.randint(1, 60))
        run.cancel(identifier)
        await run.until(lambda: run.somebody_died() or not run.unsettled(), "neither a death nor an end")
        if run.somebody_died():
            return


async def a_retraction(run: Run) -> None:
    identifier = run.notice("x", "rss")
    await run.settled()
    run.cancel(identifier)


async def an_alert_in_chunks(run: Run) -> None:
    """Issued by a command line with short chunks, so that the sender continues the fan-out."""
    run.issued += 1
    run.town.start("command", "alert", "E08", "--yes", orders={"set": dict(run.step.settings)})
    await run.ends()


# Who dies


def a_sender_dies(work: Work) -> Scene:
    async def scene(run: Run) -> None:
        run.start("sender", armed=True)
        await work(run)
        await run.dies("sender")
        run.start("sender")
        if run.dice.random() < 0.5:
            await run.pause(run.dice.uniform(1, 9))
            run.kill("sender")
            run.start("sender")

    return scene


async def a_command_dies_before_it_wakes_anybody(run: Run) -> None:
    run.start("sender")
    run.issued += 1
    run.command("alert", run.dice.choice(["E04", "E08"]), "--yes", armed=True)
    await run.dies("command")


async def a_command_dies_inside_its_transaction(run: Run) -> None:
    run.start("sender")
    preset = run.dice.choice(["E04", "E08"])
    run.command("alert", preset, "--yes", armed=True)
    await run.dies("command")
    if messages := run.identifiers():
        raise Broken(f"half a transaction stands: {messages}")
    run.issued += 1
    run.command("alert", preset, "--yes")
    await run.ends()


def a_cancelling_command_dies(*, again: bool) -> Scene:
    async def scene(run: Run) -> None:
        run.slow_relay(0.1)
        run.start("sender")
        identifier = run.notice("email", "rss")
        await run.arrived(run.dice.randint(1, 60))
        run.issued += 1
        run.command("cancel", identifier, "--yes", armed=True)
        await run.dies("command")
        if again:
            run.command("cancel", identifier, "--yes")
            await run.ends()

    return scene


async def a_sender_dies_and_then_the_cancel_comes(run: Run) -> None:
    """The letters that it had in hand may have gone out: nobody knows yet."""
    run.slow_relay(0.1)
    run.start("sender", armed=True)
    identifier = run.notice("email", "rss")
    await run.dies("sender")
    run.cancel(identifier)
    run.start("sender")


async def a_sender_dies_and_the_cancel_comes_after_its_letters_were_given_back(run: Run) -> None:
    """Some have gone out, and their successor has not come to them yet."""
    run.start("sender", armed=True)
    identifier = run.notice("email", "rss")
    await run.dies("sender")
    run.slow_relay(3)
    run.start("sender")
    await run.released()
    run.cancel(identifier)
    run.slow_relay(0)


async def a_sender_dies_with_a_post_that_is_then_cancelled(run: Run) -> None:
    run.start("sender", armed=True)
    identifier = run.notice("x", "rss")
    await run.dies("sender")
    run.cancel(identifier)
    run.start("sender")


async def a_web_process_dies_in_a_request(run: Run) -> None:
    token, key = run.a_token(), f"chaos-{run.dice.randrange(10**9)}"
    run.start("sender")
    run.start("web", armed=True)
    await run.web_is_ready()
    run.issued += 1
    if await run.post(token, key) is not None:
        raise Broken("the request was answered")
    await run.dies("web")
    run.start("web")
    await run.web_is_ready()
    first, second = await run.post(token, key), await run.post(token, key)
    if first is None or first != second:
        raise Broken(f"the repeated request gave {first} and {second}")


def a_scheduler_dies(notices: int) -> Scene:
    async def scene(run: Run) -> None:
        run.start("sender")
        due_at = run.soon(notices)
        for _ in range(notices):
            run.notice("email", "rss", at=due_at)
        run.start("scheduler", armed=True)
        await run.dies("scheduler")
        run.start("scheduler")

    return scene


async def one_of_two_schedulers_dies(run: Run) -> None:
    run.start("sender")
    run.notice("email", "rss", at=run.soon(1))
    run.start("scheduler-2", armed=True)
    run.start("scheduler")
    # The other one may be first at the plan; then there is nothing at which this one could die.
    await run.settled()
    if run.town.processes["scheduler-2"].poll() is not None:
        await run.dies("scheduler-2")
    else:
        run.kill("scheduler-2")


async def one_of_two_senders_dies_with_a_delivery_in_hand(run: Run) -> None:
    run.must_be_taken_up = True
    await two_senders(run)
    run.alert()
    for _ in range(10):  # whoever wakes first takes a delivery; sooner or later it is this one
        await run.pause(0.5)
        if run.town.processes["sender-1"].poll() is not None:
            break
        run.notice("rss")
    await run.dies("sender-1")


async def two_senders(run: Run) -> None:
    run.start("sender-1", armed=True)
    run.start("sender-2")
    await run.until(lambda: run.senders() == 2, "two senders do not start")


async def two_senders_share_and_one_dies(run: Run) -> None:
    run.must_be_taken_up = True
    run.slow_relay(0.1)
    await two_senders(run)
    run.notice("email", "rss")
    await run.dies("sender-1")


async def anybody_dies_at_any_instant(run: Run) -> None:
    roles = ["sender", "scheduler", "web"]
    for role in roles:
        run.start(role)
    run.slow_relay(run.dice.uniform(0, 0.1))
    await run.until(lambda: run.senders() == 1, "the sender does not start")
    run.notice("email", "x", "rss")
    run.notice("email", "rss", at=run.town.app.clock.now() + timedelta(seconds=run.dice.uniform(0, 4)))
    alerts_at = run.dice.randrange(3)
    for n in range(3):
        await run.pause(run.dice.uniform(0, 1.5))
        if n == alerts_at:
            run.alert()
            await run.pause(run.dice.uniform(0, 0.3))
        role = run.dice.choice(["sender", "sender", "scheduler", "web"])
        run.kill(role)
        run.start(role)


MARK = "broadcaster.store.recipients:write_down"
COUNT = "broadcaster.store.deliveries:count"
FAN_OUT = "broadcaster.store.recipients:fan_out"
STOP = "broadcaster.store.recipients:stop_waiting"
NOTIFY = "broadcaster.signals:SocketSignals.notify"
REPLACE = "broadcaster.boards:os.replace"
SETTLE = "broadcaster.pipeline:Pipeline.settle"
WRITE = "channels.email:Email.write"
LETTERS = {"items": 1}
"""A batch may also be empty: letters are claimed in the same transaction."""

SHORT_CHUNKS = {"broadcaster.store.recipients:CHUNK": 100}

STEPS: tuple[Step, ...] = (
    Step(
        name="issue.torn",
        means="the command line dies inside its transaction, and is given again",
        at="broadcaster.store.deliveries:add",
        moment="after",
        nth=18,
        scene=a_command_dies_inside_its_transaction,
    ),
    Step(
        name="issue.told",
        means="the command line dies after its transaction, before it wakes anybody",
        at=NOTIFY,
        scene=a_command_dies_before_it_wakes_anybody,
    ),
    Step(
        name="api.torn",
        means="the web process dies inside the transaction of a request; the same Idempotency-Key comes again",
        at="broadcaster.store.requests:keep",
        moment="after",
        scene=a_web_process_dies_in_a_request,
    ),
    Step(
        name="api.told",
        means="the web process dies after the transaction of a request, before it wakes anybody",
        at=NOTIFY,
        scene=a_web_process_dies_in_a_request,
    ),
    Step(
        name="api.answered",
        means="the web process dies before the answer of a request that is done",
        at="broadcaster.web.api:_accepted",
        scene=a_web_process_dies_in_a_request,
    ),
    Step(
        name="clock.torn",
        means="the scheduler dies between settling a plan and its commit",
        at="broadcaster.store.plans:settle",
        moment="after",
        narrowed={"kind": plans.ISSUE},
        scene=a_scheduler_dies(1),
    ),
    Step(
        name="clock.together",
        means="the scheduler dies between settling several plans of one hour and their commit",
        at="broadcaster.store.plans:settle_together",
        moment="after",
        scene=a_scheduler_dies(3),
    ),
    Step(
        name="clock.told",
        means="the scheduler dies at the due second, after the transaction, before it wakes anybody",
        at=NOTIFY,
        scene=a_scheduler_dies(1),
    ),
    Step(
        name="clock.two",
        means="one of two schedulers dies at the due second",
        at="broadcaster.store.plans:settle",
        moment="after",
        narrowed={"kind": plans.ISSUE},
        scene=one_of_two_schedulers_dies,
    ),
    Step(
        name="fanout.between",
        means="the sender dies between two chunks of the fan-out",
        at=FAN_OUT,
        nth=2,
        settings=SHORT_CHUNKS,
        scene=a_sender_dies(an_alert_in_chunks),
    ),
    Step(
        name="fanout.torn",
        means="the sender dies with a chunk written and not committed",
        at=FAN_OUT,
        moment="after",
        nth=2,
        settings=SHORT_CHUNKS,
        scene=a_sender_dies(an_alert_in_chunks),
    ),
    Step(
        name="mail.claimed",
        means="the sender dies between claiming letters and sending them",
        at=WRITE,
        nth=250,
        scene=a_sender_dies(a_bulk),
    ),
    Step(
        name="mail.answered",
        means="the relay has taken the letters, the ledger does not know yet",
        at=MARK,
        nth=2,
        narrowed=LETTERS,
        scene=a_sender_dies(a_bulk),
    ),
    Step(
        name="mail.writing",
        means="the sender dies in a batch: the letters' rows are written, the counts are not",
        at=COUNT,
        nth=2,
        scene=a_sender_dies(a_bulk),
    ),
    Step(
        name="mail.written",
        means="the sender dies with a whole batch written and not committed",
        at=MARK,
        moment="after",
        nth=2,
        narrowed=LETTERS,
        scene=a_sender_dies(an_alert_into_a_bulk),
    ),
    Step(
        name="board.torn",
        means="a board is switched: half of a page's new file is written",
        at="pathlib:Path.write_bytes",
        moment="half",
        nth=40,
        narrowed={"text": "/public/"},
        scene=a_sender_dies(an_alert_on_all_media),
    ),
    Step(
        name="board.before",
        means="a board is switched: a page's new file is written and not yet in its place",
        at=REPLACE,
        nth=40,
        scene=a_sender_dies(an_alert_on_all_media),
    ),
    Step(
        name="board.after",
        means="a board is switched: some pages are in their places, the others are not",
        at=REPLACE,
        moment="after",
        nth=40,
        scene=a_sender_dies(an_alert_into_a_bulk),
    ),
    Step(
        name="board.unsettled",
        means="a board is switched, and the ledger does not know yet",
        at=SETTLE,
        nth=4,
        narrowed={"kind": BOARD},
        scene=a_sender_dies(an_alert_on_all_media),
    ),
    Step(
        name="post.taken",
        means="a post is taken in hand and not yet sent",
        at="channels.x:X.deliver",
        scene=a_sender_dies(an_alert_on_all_media),
    ),
    Step(
        name="post.accepted",
        means="X has the post, and nothing is written down",
        at="channels.x:X.deliver",
        moment="after",
        scene=a_sender_dies(an_alert_on_all_media),
    ),
    Step(
        name="post.settling",
        means="X has the post, and the record of it is not committed",
        at=SETTLE,
        moment="after",
        narrowed={"kind": PUSH},
        scene=a_sender_dies(a_notice_with_a_post),
    ),
    Step(
        name="post.retracted",
        means="X has deleted the post of a cancelled notice, and nothing is written down",
        at="channels.x:X.retract",
        moment="after",
        scene=a_sender_dies(a_retraction),
    ),
    Step(
        name="post.cancelled",
        means="X has the post, nothing is written down, and now the notice is cancelled",
        at="channels.x:X.deliver",
        moment="after",
        scene=a_sender_dies_with_a_post_that_is_then_cancelled,
    ),
    Step(
        name="cancel.torn",
        means="the command line dies inside the transaction of a cancel, and is given again",
        at=STOP,
        moment="after",
        scene=a_cancelling_command_dies(again=True),
    ),
    Step(
        name="cancel.told",
        means="the command line dies after the transaction of a cancel, before it wakes anybody",
        at=NOTIFY,
        scene=a_cancelling_command_dies(again=False),
    ),
    Step(
        name="cancel.stopping",
        means="the sender dies at the stop point of a cancelled bulk",
        at=STOP,
        scene=a_sender_dies(a_cancelled_bulk),
    ),
    Step(
        name="cancel.stopped",
        means="the sender has stopped the unsent letters of a cancelled bulk and has not committed that",
        at=STOP,
        moment="after",
        scene=a_sender_dies(a_cancelled_bulk),
    ),
    Step(
        name="cancel.telling",
        means="the sender dies while those who have the cancelled bulk are being found",
        at=FAN_OUT,
        moment="after",
        scene=a_sender_dies(a_cancelled_bulk),
    ),
    Step(
        name="cancel.held",
        means="letters are out and not written down, and now the bulk is cancelled",
        at=MARK,
        nth=2,
        narrowed=LETTERS,
        scene=a_sender_dies_and_then_the_cancel_comes,
    ),
    Step(
        name="cancel.given_back",
        means="letters are out and not written down, were given back, and now the bulk is cancelled",
        at=MARK,
        nth=2,
        narrowed=LETTERS,
        scene=a_sender_dies_and_the_cancel_comes_after_its_letters_were_given_back,
    ),
    Step(
        name="two.pushes",
        means="a sender dies with boards and posts in hand; another one lives, nobody is started again",
        at="broadcaster.pipeline:Pipeline.attempt",
        scene=one_of_two_senders_dies_with_a_delivery_in_hand,
    ),
    Step(
        name="two.letters",
        means="two senders share a bulk and one dies; nobody is started again",
        at=MARK,
        narrowed=LETTERS,
        scene=two_senders_share_and_one_dies,
    ),
    Step(
        name="any.instant",
        means="three blows from outside, at instants and at processes that the seed chooses",
        scene=anybody_dies_at_any_instant,
    ),
)

NAMED = {step.name: step for step in STEPS}
