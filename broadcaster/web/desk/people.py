"""Who may come to the desk: invited, disabled, and in another role once a second administrator agrees."""

from __future__ import annotations

from starlette.responses import Response

from broadcaster.invitations import Invitation, ask_role, invite
from broadcaster.problems import Problem, Refused
from broadcaster.roles import Right, Role
from broadcaster.store import audit, people
from broadcaster.store.people import Person
from broadcaster.web.desk.signin import prove
from broadcaster.web.desk.visit import PATH, Desk, NotThere, Visit

HERE = f"{PATH}/people"


def register(desk: Desk) -> None:
    pages = People(desk)
    desk.get("/people", Right.PEOPLE, pages.show)
    desk.post("/people", Right.PEOPLE, pages.invite)
    desk.post("/people/{id}/disable", Right.PEOPLE, pages.disable)
    desk.post("/people/{id}/role", Right.PEOPLE, pages.ask_role)
    desk.post("/people/roles/{id}", Right.PEOPLE, pages.settle_role)


class People:
    def __init__(self, desk: Desk) -> None:
        self.app = desk.app

    def show(self, visit: Visit) -> Response:
        return self._page(visit)

    def _page(self, visit: Visit, *, problem: Problem | None = None, link: str = "", invited: str = "") -> Response:
        with self.app.database.read() as connection:
            everybody = people.everybody(connection)
            asked = people.asked_roles(connection)
        return visit.page(
            "desk/people.html",
            status=422 if problem else 200,
            problems=[problem] if problem else [],
            everybody=everybody,
            asked=asked,
            roles=list(Role),
            link=link,
            invited=invited,
        )

    def invite(self, visit: Visit) -> Response:
        """The link is on the answer to this form and nowhere else; who is to be an administrator waits as a viewer."""
        wanted = Invitation(
            name=visit.field("name").strip(),
            display=visit.field("display").strip(),
            role=_role_of(visit),
            section=visit.field("section").strip(),
            email=visit.field("email").strip(),
        )
        if problems := wanted.problems(self.app.settings.words):
            return self._page(visit, problem=problems[0])
        if not prove(visit):
            return self._page(visit, problem=visit.problem("code", "people.code_wrong"))
        try:
            with self.app.database.write() as connection:
                made = invite(connection, wanted, by=visit.actor, words=self.app.settings.words, now=visit.now)
        except Refused as refused:
            return self._page(visit, problem=refused.problems[0])
        address = f"{self.app.settings.ward.base_url}{PATH}/invite/{made.secret}"
        return self._page(visit, link=address, invited=made.person.full_name)

    def disable(self, visit: Visit) -> Response:
        """Every session of this person ends with the same transaction: the next request finds none."""
        person = self._person(visit)
        if person.id == visit.person.id:
            return self._page(visit, problem=visit.problem(f"person-{person.id}", "people.self"))
        if not prove(visit):
            return self._page(visit, problem=visit.problem(f"person-{person.id}", "people.code_wrong"))
        with self.app.database.write() as connection:
            people.set_state(connection, person.id, people.DISABLED)
            audit.write(connection, visit.actor, "person.disabled", person.name, at=visit.now)
        return visit.go(HERE)

    def ask_role(self, visit: Visit) -> Response:
        person, role = self._person(visit), _role_of(visit)
        if not prove(visit):
            return self._page(visit, problem=visit.problem(f"person-{person.id}", "people.code_wrong"))
        with self.app.database.write() as connection:
            ask_role(connection, person, role, by=visit.actor, now=visit.now)
        return visit.go(HERE)

    def settle_role(self, visit: Visit) -> Response:
        is_confirmed = visit.field("how") == "confirm"
        with self.app.database.write() as connection:
            found = [one for one in people.asked_roles(connection) if str(one.id) == visit.path("id")]
            if not found:
                raise NotThere
            change = found[0]
            if is_confirmed and change.person.name == visit.person.name:
                return self._page(visit, problem=visit.problem(f"change-{change.id}", "people.own"))
            done = people.settle_role(connection, change, is_confirmed=is_confirmed, by=visit.person.name, at=visit.now)
            if done:
                act = "role.confirmed" if is_confirmed else "role.refused"
                audit.write(connection, visit.actor, act, change.person.name, at=visit.now, role=change.role.value)
        if not done:
            return self._page(visit, problem=visit.problem(f"change-{change.id}", "people.own"))
        return visit.go(HERE)

    def _person(self, visit: Visit) -> Person:
        if not visit.path("id").isdecimal() or len(visit.path("id")) > 18:
            raise NotThere
        with self.app.database.read() as connection:
            person = people.by_id(connection, int(visit.path("id")))
        if person is None:
            raise NotThere
        return person


def _role_of(visit: Visit) -> Role:
    try:
        return Role(visit.field("role"))
    except ValueError:
        raise NotThere from None
