"""The command `broadcaster`. Every refusal is a sentence; no traceback reaches a user.

Japanese by default, `--lang en` or BROADCASTER_LANG=en for English.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from broadcaster import app as assembly
from broadcaster import backup as backups
from broadcaster import checks, lists, logs, manuscript, presets, reports, settings, yamlfile
from broadcaster.clock import local
from broadcaster.delivery import Counts, Lane, State
from broadcaster.invitations import Invitation, invite
from broadcaster.lifecycle import MoveNotAllowed
from broadcaster.message import Change, Message, Mode
from broadcaster.pipeline import Pipeline, Preview
from broadcaster.problems import Problem, Refused, refuse
from broadcaster.progress import progress_bar
from broadcaster.roles import Role
from broadcaster.settings import Settings
from broadcaster.store import deliveries, messages, people, tokens
from broadcaster.store.audit import Actor
from broadcaster.store.audit import write as audit_write
from broadcaster.store.database import StoreError

T = TypeVar("T")

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
subscribers_cli = typer.Typer(no_args_is_help=True, help="しなメールの登録者 / readers")
token_cli = typer.Typer(no_args_is_help=True, help="API の鍵 / API tokens")
db_cli = typer.Typer(no_args_is_help=True, help="データベース / database")
cli.add_typer(subscribers_cli, name="subscribers")
cli.add_typer(token_cli, name="token")
users_cli = typer.Typer(no_args_is_help=True, help="広報デスクの人 / people of the desk")
cli.add_typer(users_cli, name="users")
cli.add_typer(db_cli, name="db")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
_language = "ja"


def main() -> NoReturn:
    """Run one command; every foreseeable failure ends in sentences and exit status 2."""
    os.umask(0o077)
    try:
        ended = cli(standalone_mode=False)  # the status of typer.Exit comes back as a value
    except Refused as refused:
        _say(refused)
    except (typer.Abort, KeyboardInterrupt):
        err.print(_in("やめました。何も送っていません。", "Stopped. Nothing was sent."))
        sys.exit(130)
    except MoveNotAllowed as error:
        _say(refuse("id", ja=f"いまの状態（{error.state}）ではできません。", en=str(error)))
    except messages.ChangedMeanwhile:
        _say(refuse("id", ja="ほかの人が先に変えました。もう一度確かめてください。", en="Somebody changed it first."))
    except StoreError as error:
        reason = str(getattr(error, "orig", "") or type(error).__name__).splitlines()[0]
        _say(
            refuse(
                "database",
                ja=f"データベースを使えません（{reason}）。broadcaster db upgrade をためすか、場所と空きを確かめてください。",
                en=f"The database cannot be used ({reason}); try broadcaster db upgrade, or check its place and space.",
            )
        )
    except OSError as error:  # a disk that is full, a folder that may not be written
        place = f"{error.filename}: " if error.filename else ""
        _say(
            refuse(
                "BROADCASTER_HOME",
                ja=f"{place}読み書きできません（{error.strerror}）。場所、権限、空きを確かめてください。",
                en=f"{place}cannot be read or written ({error.strerror}); check the place, permissions and space.",
            )
        )
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "format_message"):
            err.print(error.format_message())
            sys.exit(2)
        raise
    sys.exit(ended if isinstance(ended, int) else 0)


def _say(refused: Refused) -> NoReturn:
    for problem in refused.problems:
        err.print(f"{problem.where}: {problem.in_(_language)}", markup=False)
    sys.exit(2)


def _in(ja: str, en: str) -> str:
    return ja if _language == "ja" else en


@cli.callback()
def language(
    lang: Annotated[str, typer.Option(envvar="BROADCASTER_LANG", help="ja | en")] = "ja",
) -> None:
    """品川区の広報デスク。一つの文が、すべての媒体へ届きます。"""
    global _language
    _language = "en" if lang.startswith("en") else "ja"


@contextmanager
def _opened(*, credentials: bool = False) -> Iterator[assembly.App]:
    """The parts of this process, with the database as this version needs it."""
    logs.configure(os.environ.get("BROADCASTER_LOG", "WARNING"))
    parts = assembly.assemble(settings.load(), credentials=credentials)
    try:
        if not parts.database.is_current():
            parts.database.upgrade()
        yield parts
    finally:
        asyncio.run(parts.close())


def _actor() -> Actor:
    """Who sits at the terminal: the operating system's word, and who became whom."""
    name = os.environ.get("SUDO_USER")
    return Actor(name=f"{name}→{getpass.getuser()}" if name else getpass.getuser(), via="cli")


def _run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """uvloop where there is one: the mail lines are faster by half."""
    import uvloop

    return uvloop.run(work())


# Roles


@cli.command()
def serve(
    port: Annotated[int, typer.Option(help="ページの番号")] = 8000,
    host: Annotated[str, typer.Option(help="待ち受ける場所")] = "127.0.0.1",
) -> None:
    """すべての役を一つの命令で動かす（ページ、送り手、予定、練習の町）。"""
    from broadcaster import start

    logs.configure(os.environ.get("BROADCASTER_LOG", "WARNING"))
    start.serve(host=host, port=port, out=out)


@cli.command()
def web(
    port: Annotated[int, typer.Option()] = 8000,
    host: Annotated[str, typer.Option()] = "127.0.0.1",
) -> None:
    """ページと API だけを動かす。媒体の秘密は持たない。"""
    from broadcaster import start

    logs.configure(os.environ.get("BROADCASTER_LOG", "INFO"))
    start.web(host=host, port=port)


@cli.command()
def work(lane: Annotated[str, typer.Option(help="priority | routine | all")] = "all") -> None:
    """送り手だけを動かす。"""
    from broadcaster import start

    lanes = {"priority": [Lane.PRIORITY], "routine": [Lane.ROUTINE], "all": list(Lane)}.get(lane)
    if lanes is None:
        raise refuse("--lane", ja="priority・routine・all のどれかです。", en="--lane is priority, routine or all.")
    logs.configure(os.environ.get("BROADCASTER_LOG", "INFO"))
    _run(lambda: start.work(lanes))


@cli.command()
def schedule() -> None:
    """予定だけを動かす。"""
    from broadcaster import start

    logs.configure(os.environ.get("BROADCASTER_LOG", "INFO"))
    _run(start.schedule)


@cli.command(hidden=True)
def rehearsal() -> None:
    """練習の町だけを動かす。"""
    from broadcaster import start

    logs.configure(os.environ.get("BROADCASTER_LOG", "INFO"))
    _run(start.rehearsal)


# Notices


@cli.command()
def issue(
    file: Annotated[Path, typer.Argument(help="お知らせの原稿（YAML）。一つでも、いくつでも")],
    now: Annotated[bool, typer.Option("--now", help="練習だけ：日時をいまに移して、すぐ出す")] = False,
    drill: Annotated[bool, typer.Option("--drill", help="訓練として出す")] = False,
    pictures: Annotated[Path | None, typer.Option(help="画像の置き場（書かなければ原稿と同じ所）")] = None,
    only: Annotated[str | None, typer.Option(help="この番号のものだけ（N02 など）")] = None,
) -> None:
    """お知らせを出す。先の日時のものは予定に入る。一つでも直す所があれば、どれも出さない。"""
    with _opened() as parts:
        _only_in_rehearsal(parts, now, "--now")
        mode = Mode.DRILL if drill else Mode.LIVE
        handed_in = _messages_in(parts, file, mode=mode, now=now, pictures=pictures, only=only)
        for name, message in handed_in:
            kept = parts.pipeline.hand_in(message, _actor())
            print(f"{kept.message.identifier}\t{kept.state}\t{name}\t{message.info.headline}")


@cli.command()
def preview(
    file: Annotated[Path, typer.Argument(help="お知らせの原稿（YAML）")],
    channel: Annotated[str | None, typer.Option(help="この媒体だけ")] = None,
    drill: Annotated[bool, typer.Option("--drill")] = False,
    pictures: Annotated[Path | None, typer.Option(help="画像の置き場")] = None,
    only: Annotated[str | None, typer.Option(help="この番号のものだけ")] = None,
    now: Annotated[bool, typer.Option("--now", help="練習だけ：日時をいまに移す")] = False,
) -> None:
    """媒体ごとにどう見えるか、何が載らないかを見る。何も送らない。"""
    with _opened() as parts:
        _only_in_rehearsal(parts, now, "--now")
        mode = Mode.DRILL if drill else Mode.LIVE
        for name, message in _messages_in(parts, file, mode=mode, now=now, pictures=pictures, only=only):
            reach = parts.pipeline.reach(message)
            out.rule(f"{name} {message.info.headline}")
            out.print(
                _in(f"メール {reach.mails}人・画面 {reach.screens}台", f"{reach.mails} mails, {reach.screens} screens")
            )
            for shown in parts.pipeline.preview(message):
                if channel is None or shown.channel == channel:
                    _show(shown)


def _show(shown: Preview) -> None:
    content = dict(shown.content)
    words = content.pop("text", None)
    out.print(f"── {shown.channel} · {shown.part}", markup=False)
    if content:
        out.print(json.dumps(content, ensure_ascii=False, indent=1), markup=False)
    if words:
        out.print(str(words), markup=False)
    for sentence in shown.omitted:
        out.print(_in(f"載らないもの：{sentence}", f"Left out: {sentence}"), markup=False)


def _messages_in(
    parts: assembly.App, file: Path, *, mode: Mode, now: bool, pictures: Path | None, only: str | None
) -> list[tuple[str, Message]]:
    """Every message of a file, or every problem of every one of them."""
    at = parts.clock.now()
    found: list[tuple[str, Message]] = []
    problems: list[Problem] = []
    for name, source, is_preset in _entries(yamlfile.read(file), str(file)):
        if only is not None and name != only:
            continue
        try:
            message = (
                _preset_message(parts, source, mode=mode, use_examples=now)
                if is_preset
                else manuscript.read(
                    manuscript.moved_manuscript(source, at) if now else source,
                    ward=parts.settings.ward,
                    media=parts.settings.enabled,
                    now=at,
                    mode=mode,
                    fetch=_fetch(parts, file, pictures),
                )
            )
        except Refused as refused:
            problems.extend(replace(problem, where=f"{name} {problem.where}") for problem in refused.problems)
        else:
            found.append((name, message))
    if problems:
        raise Refused(problems)
    if not found:
        raise refuse(str(file), ja="お知らせがありません。", en="There is no notice in it.")
    return found


def _entries(data: Any, where: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """The notices of a file: one, a list, or under `notices:` or `presets:`."""
    is_preset = isinstance(data, dict) and "presets" in data
    if isinstance(data, dict):
        data = data.get("notices") or data.get("presets") or data
    entries = data if isinstance(data, list) else [data]
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise refuse(where, ja=f"{number} 番目がお知らせの形ではありません。", en=f"Entry {number} is no notice.")
        yield str(entry.get("id", number)), entry, is_preset


def _preset_message(parts: assembly.App, source: dict[str, Any], *, mode: Mode, use_examples: bool) -> Message:
    own = parts.settings.presets.get(str(source.get("id")))
    preset = presets.from_yaml({"to": own.to if own else "{area}", **source})
    return presets.compose_alert(
        preset,
        ward=parts.settings.ward,
        now=parts.clock.now(),
        mode=Mode.DRILL if preset.is_drill_only else mode,
        channels=parts.settings.enabled,
        values={},
        use_examples=use_examples,
    )


def _fetch(parts: assembly.App, file: Path, pictures: Path | None) -> manuscript.Fetch:
    """Pictures beside the manuscript; in rehearsal the sample pictures too."""
    folders = [pictures] if pictures else [file.parent, file.parent / "images"]
    if parts.settings.is_rehearsal:
        folders.append(parts.settings.config / "rehearsal" / "images")

    def fetch(name: str, alt: str) -> Any:
        folder = next((folder for folder in folders if (folder / name).is_file()), folders[0])
        return parts.pictures_from(folder)(name, alt)

    return fetch


def _only_in_rehearsal(parts: assembly.App, wanted: bool, option: str) -> None:
    if wanted and not parts.settings.is_rehearsal:
        raise refuse(option, ja=f"{option} は練習だけで使えます。", en=f"{option} is for rehearsals only.")


# Emergencies


@cli.command()
def alert(
    preset: Annotated[str, typer.Argument(help="文案の番号（E01 など）")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="欄=値。いくつでも")] = None,
    drill: Annotated[bool, typer.Option("--drill", help="訓練として出す")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="聞かずに出す")] = False,
) -> None:
    """緊急放送：用意した文案を、すべての媒体へ、すぐに出す。"""
    with _opened() as parts:
        chosen = _preset(parts.settings, preset)
        mode = Mode.DRILL if drill else Mode.LIVE
        message = presets.compose_alert(
            chosen,
            ward=parts.settings.ward,
            now=parts.clock.now(),
            mode=mode,
            channels=parts.settings.enabled,
            values=_values(set_ or []),
            use_examples=parts.settings.is_rehearsal or drill,
        )
        _state_consequence(parts, message)
        _confirm(chosen.id, yes)
        kept = parts.pipeline.hand_in(message, _actor())
        print(kept.message.identifier)


def _preset(configured: Settings, name: str) -> presets.Preset:
    try:
        return configured.presets[name.upper()]
    except KeyError:
        known = "、".join(f"{preset.id} {preset.event}" for preset in configured.presets.values())
        raise refuse(
            "PRESET",
            ja=f"文案「{name}」はありません。あるのは：{known}",
            en=f"There is no preset {name!r}; there are {', '.join(configured.presets)}.",
        ) from None


def _values(pairs: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise refuse("--set", ja=f"「{pair}」は 欄=値 の形で書いてください。", en=f"Write {pair!r} as field=value.")
        values[name.strip()] = value
    return values


def _state_consequence(parts: assembly.App, message: Message) -> None:
    """Mode, media and head-count, before the act and on standard error, so that the identifier stands alone."""
    reach = parts.pipeline.reach(message)
    words = parts.settings.words
    if message.is_drill:
        sentence = words.page("confirmations.drill", _language, n=str(reach.mails))
    else:
        sentence = words.page("confirmations.live", _language, people=f"{reach.mails:,}", screens=str(reach.screens))
    if parts.settings.is_rehearsal:
        sentence += "\n" + words.page("confirmations.rehearsal", _language)
    err.print(f"{message.info.headline}\n{message.area_text}\n{', '.join(message.channels)}\n{sentence}", markup=False)
    for info in message.infos:
        err.print(f"  {info.language:8} {info.headline[:40]}", markup=False)


def _confirm(word: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise refuse("--yes", ja="端末でないときは --yes を付けてください。", en="Not a terminal: give --yes.")
    typed = typer.prompt(_in(f"出すなら {word} と入れてください", f"Type {word} to send"))
    if typed.strip().upper() != word.upper():
        raise typer.Abort


@cli.command()
def update(
    id: Annotated[str, typer.Argument(help="出したものの番号")],
    text: Annotated[str, typer.Option(help="足す一文（日本語）")] = "",
    set_: Annotated[list[str] | None, typer.Option("--set", help="文案の欄=値を入れ直す")] = None,
    file: Annotated[Path | None, typer.Option(help="新しい原稿（YAML）")] = None,
    correction: Annotated[bool, typer.Option("--correction", help="訂正（前のがまちがい）")] = False,
    yes: Annotated[bool, typer.Option("--yes")] = False,
) -> None:
    """続報か訂正を、同じ人と同じ媒体に、ほかより先に出す。"""
    with _opened() as parts:
        change = Change.CORRECTION if correction else Change.UPDATE
        values = _values(set_ or [])
        if not (text or values or file):
            raise refuse(
                "--text", ja="--text か --set か --file で、何を変えるかを書いてください。", en="Say what changes."
            )
        _confirm(id, yes)
        renew = (lambda original: _renewed(parts, original, values, file)) if values or file else None
        kept = parts.pipeline.change(id, change, _actor(), renew=renew, line=text)
        print(kept.message.identifier)


def _renewed(parts: assembly.App, original: Message, values: dict[str, str], file: Path | None) -> Message:
    if file is not None:
        found = _messages_in(parts, file, mode=original.mode, now=False, pictures=None, only=None)
        return found[0][1]
    if original.preset is None:
        raise refuse(
            "--set", ja="文案から出したものではないので、--file で直してください。", en="Not from a preset: use --file."
        )
    return presets.compose_alert(
        parts.settings.presets[original.preset],
        ward=parts.settings.ward,
        now=parts.clock.now(),
        mode=original.mode,
        channels=original.channels,
        values={**original.slots, **values},
        use_examples=False,
    )


@cli.command()
def cancel(
    id: Annotated[str, typer.Argument(help="出したものの番号")],
    all_clear: Annotated[bool, typer.Option("--all-clear", help="取消ではなく、解除（危険がなくなった）")] = False,
    text: Annotated[str, typer.Option(help="足す一文（日本語）")] = "",
    yes: Annotated[bool, typer.Option("--yes")] = False,
) -> None:
    """取り消す（または解除する）。まだ送っていない分は止まり、届いた人に知らせる。"""
    with _opened() as parts:
        _confirm(id, yes)
        change = Change.ALL_CLEAR if all_clear else Change.CANCEL
        kept = parts.pipeline.change(id, change, _actor(), line=text)
        print(kept.message.identifier)


@cli.command()
def approve(id: Annotated[str, typer.Argument(help="承認待ちの番号")]) -> None:
    """承認待ちのものを承認する。時刻が来ていれば、すぐに出る。"""
    with _opened() as parts:
        kept = parts.pipeline.approve(id, _actor())
        print(f"{kept.message.identifier}\t{kept.state}")


@cli.command()
def status(
    id: Annotated[str | None, typer.Argument(help="番号。書かなければ新しい順の一覧")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="機械で読む形")] = False,
) -> None:
    """届いたか。媒体ごとの様子と、数と、証拠。"""
    with _opened() as parts:
        if id is None:
            _list(parts.pipeline)
        else:
            report = _report(parts.pipeline, id)
            print(json.dumps(report, ensure_ascii=False, indent=1)) if as_json else _board(parts.settings, report)


def _list(pipeline: Pipeline) -> None:
    table = Table("番号", "状態", "始まり", "題")
    with pipeline.database.read() as connection:
        for kept in messages.newest(connection):
            begins = f"{local(kept.message.effective_at):%m-%d %H:%M}"
            table.add_row(kept.message.identifier, kept.state, begins, kept.message.info.headline)
    out.print(table)


def _report(pipeline: Pipeline, id: str) -> dict[str, Any]:
    with pipeline.database.read() as connection:
        return reports.of(connection, id)


def _board(configured: Settings, report: dict[str, Any]) -> None:
    out.print(f"{report['identifier']}  {report['state']}  {report['headline']}", markup=False)
    table = Table(*_in("媒体 部分 様子 数 証拠・理由", "Medium Part State Count Evidence").split())
    for row in report["deliveries"]:
        counts = row["counts"]
        number = f"{counts['delivered']}/{counts['total']}" if counts["total"] else ""
        if counts["total"] == 0 and row["kind"] == "mailing":
            continue
        said = row["detail"] or row["evidence"]
        ending = deliveries.ending(State[row["state"].upper()], row["kind"])
        table.add_row(
            row["channel"],
            row["part"],
            configured.words.page(f"states_delivery.{ending}", _language),
            number,
            said,
        )
    out.print(table)
    total = Counts(**report["counts"])
    out.print(
        _in(
            f"メール：全 {total.total}　届いた（中継に渡した）{total.delivered}　止めた {total.stopped}　"
            f"届かなかった {total.failed}　わからない {total.unknown}　まだ {total.queued + total.in_flight}",
            f"Mail: {total.total} in all, {total.delivered} accepted, {total.stopped} stopped, {total.failed} failed, "
            f"{total.unknown} unknown, {total.queued + total.in_flight} not yet",
        )
    )


# Readers


@subscribers_cli.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="名簿（CSV）")],
    encoding: Annotated[str, typer.Option(help="utf-8 | cp932")] = "utf-8",
    drill: Annotated[bool, typer.Option("--drill", help="訓練の宛先として")] = False,
) -> None:
    """名簿を読み込む。読めない行は、行番号と理由を並べ、ほかの行は入れる。"""
    with _opened() as parts, progress_bar(err) as progress:
        written, refused = lists.bring_in(
            parts, file, encoding=encoding, is_drill=drill, actor=_actor(), progress=progress
        )
    for row in refused[:50]:
        err.print(f"{row.line}: {row.ja if _language == 'ja' else row.en}", markup=False)
    out.print(_in(f"{written}人を入れ、{len(refused)}行を断りました。", f"{written} written, {len(refused)} refused."))
    if refused:
        raise typer.Exit(1)


@subscribers_cli.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="書き出す先。あるファイルには書かない")],
    drill: Annotated[bool, typer.Option("--drill")] = False,
) -> None:
    """名簿を書き出す。本人だけが読めるファイルにし、記録に残す。"""
    with _opened() as parts:
        count = lists.take_out(parts, file, is_drill=drill, actor=_actor())
    out.print(_in(f"{count}人を {file} に書き出しました。", f"{count} readers written to {file}."))


# Operation


@cli.command()
def check() -> None:
    """設定・秘密・媒体・データベースを調べ、足りないものを一文ずつ言う。"""
    with _opened(credentials=True) as parts:
        findings = asyncio.run(checks.all_of(parts))
        for finding in findings:
            mark = "✕" if finding.is_wrong else "●"
            out.print(f"{mark} {finding.where}: {finding.ja if _language == 'ja' else finding.en}", markup=False)
        if any(finding.is_wrong for finding in findings):
            raise typer.Exit(1)


@db_cli.command("upgrade")
def upgrade() -> None:
    """データベースをこの版の形にする。"""
    with _opened() as parts:
        parts.database.upgrade()
        out.print(_in("データベースはこの版の形です。", "The database is current."))


@cli.command("backup")
def backup_(file: Annotated[Path, typer.Argument(help="写しの置き場")]) -> None:
    """動いたままで写しを取る（SQLite）。"""
    with _opened() as parts:
        backups.save(parts.database, file, parts.clock.now())
        out.print(_in(f"{file} に写しました。", f"Saved to {file}."))


@cli.command("restore")
def restore_(file: Annotated[Path, typer.Argument(help="写し")]) -> None:
    """写しから戻す。戻した直後は何も送らない（broadcaster release で始める）。"""
    logs.configure(os.environ.get("BROADCASTER_LOG", "WARNING"))
    configured = settings.load()
    backups.restore(configured.database_url, file)
    out.print(
        _in(
            "戻しました。確かめてから broadcaster release で送り始めてください。",
            "Restored and frozen. Check it, then run broadcaster release.",
        )
    )


@cli.command()
def release() -> None:
    """写しから戻したあと、送るのを始める。"""
    with _opened() as parts, parts.database.write() as connection:
        backups.release(connection)
        audit_write(connection, _actor(), "installation.released", "restore", at=parts.clock.now())


@token_cli.command("create")
def token_create(
    role: Annotated[Role, typer.Option(help="役")],
    name: Annotated[str, typer.Option(help="だれの、何のための鍵か")],
    drill: Annotated[bool, typer.Option("--drill", help="訓練だけに使える鍵")] = False,
) -> None:
    """鍵を作る。最後の行に一度だけ出る。"""
    with _opened() as parts:
        mode = Mode.DRILL if drill else Mode.LIVE
        with parts.database.write() as connection:
            shown = tokens.create(connection, name=name, role=role, mode=mode, now=parts.clock.now())
            audit_write(
                connection,
                _actor(),
                "token.created",
                shown.split("_")[2],
                at=parts.clock.now(),
                mode=mode,
                role=role.value,
            )
        err.print(_in("この鍵は、もう一度は出せません。", "This is shown only once."))
        print(shown)


@token_cli.command("list")
def token_list() -> None:
    """使える鍵の一覧（鍵そのものは出ない）。"""
    with _opened() as parts, parts.database.read() as connection:
        for token in tokens.all_of(connection):
            print(f"{token.id}\t{token.role}\t{token.mode}\t{token.name}")


@token_cli.command("revoke")
def token_revoke(id: Annotated[str, typer.Argument()]) -> None:
    """鍵を使えなくする。"""
    with _opened() as parts, parts.database.write() as connection:
        if not tokens.revoke(connection, id, parts.clock.now()):
            raise refuse("id", ja=f"鍵「{id}」はありません。", en=f"There is no token {id!r}.")
        audit_write(connection, _actor(), "token.revoked", id, at=parts.clock.now())


@users_cli.command("invite")
def users_invite(
    name: Annotated[str, typer.Argument(help="サインインの名前")],
    display: Annotated[str, typer.Option(help="表示する名前")],
    role: Annotated[Role, typer.Option(help="役")],
) -> None:
    """人を招く。最後の行のリンクは一度だけ出る（48時間）。管理する人には、もう一人の管理する人が広報デスクで認める。"""
    with _opened() as parts:
        wanted = Invitation(name=name, display=display, role=role)
        with parts.database.write() as connection:
            made = invite(connection, wanted, by=_actor(), words=parts.settings.words, now=parts.clock.now())
        if role is Role.ADMIN:
            key = "people.waits" if made.waits else "people.made_alone"
            err.print(parts.settings.words.page(key, _language, name=name), markup=False)
        print(f"{parts.settings.ward.base_url}/desk/invite/{made.secret}")


@users_cli.command("list")
def users_list() -> None:
    """広報デスクの人の一覧。"""
    with _opened() as parts, parts.database.read() as connection:
        for person in people.everybody(connection):
            print(f"{person.name}\t{person.role}\t{person.state}\t{person.full_name}")


@users_cli.command("disable")
def users_disable(name: Annotated[str, typer.Argument()]) -> None:
    """使えなくする。サインインもすべて終わる。"""
    with _opened() as parts, parts.database.write() as connection:
        person = people.by_name(connection, name)
        if person is None:
            raise refuse("name", ja=f"「{name}」という人はいません。", en=f"There is nobody called {name!r}.")
        people.set_state(connection, person.id, people.DISABLED)
        audit_write(connection, _actor(), "person.disabled", name, at=parts.clock.now())
