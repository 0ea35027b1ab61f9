"""`POST /imports`: what is refused before a file is read, forms, idempotency, and what is left of a refused file."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from app.core import clock
from app.core.errors import Refusal
from app.imports import kept_files
from app.imports.actions import MOST_WAITING, MOST_WAITING_BYTES
from app.imports.arrivals import Arrivals
from app.imports.leftovers import keep_house
from app.imports.models import FileImportChunk
from app.imports.upload import MAX_BYTES
from tests.accounts.state import state, unchanged
from tests.imports.importing import client, csv, post, report, work
from tests.meters.asking import make_customer
from tests.readings.generated_year import METER_NUMBER
from tests.readings.metered import metered
from tests.support import World

CONTENT = csv(METER_NUMBER, "1", "2")


async def untouched() -> AsyncIterator[bytes]:
    raise AssertionError("nothing of this body is to be read")
    yield b""


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"profile": "unheard-of"}, "INVALID"),
        ({"dryrun": "true"}, "INVALID"),
        ({"dryRun": "yes"}, "INVALID"),
        ({"onProblem": "ignore"}, "INVALID"),
        ({"channel": "import"}, "INVALID"),
        ({"timezone": "Europe/Paris"}, "INVALID"),
        ({"calorificValue": "400"}, "OUT_OF_RANGE"),
        ({"calorificValue": "NaN"}, "OUT_OF_RANGE"),
        ({"columns": "[1]"}, "INVALID"),
        ({"columns": '{"meter": "\\ud800"}'}, "INVALID"),
        ({"columns": '{"meter": "\\u0000"}'}, "INVALID"),
        ({"fileName": "a\0b"}, "INVALID"),
        ({"meter": "\0"}, "INVALID"),
        ({"createMissing": "true"}, "REQUIRED"),
        ({"fileName": "x" * 256}, "TOO_LONG"),
    ],
)
async def test_a_wrong_query_is_refused_before_the_file_is_read(
    small_world: World, query: dict[str, str], code: str
) -> None:
    account = await small_world.account()
    async with unchanged(small_world):
        response = await post(small_world, account.key, untouched(), **query)
        assert (response.status_code, response.json()["code"]) == (400, code), response.text
        assert response.json()["message"].endswith(".")


async def test_another_accounts_customer_is_not_there(small_world: World) -> None:
    account, other = await small_world.account(), await small_world.account()
    customer_id = await make_customer(small_world, other)
    async with unchanged(small_world):
        response = await post(small_world, account.key, untouched(), customerId=customer_id)
        assert (response.status_code, response.json()["code"]) == (404, "NOT_FOUND")


async def test_a_file_needs_a_key_that_may_write(small_world: World) -> None:
    account = await small_world.account()
    response = await post(small_world, None, untouched())
    assert (response.status_code, response.json()["code"]) == (401, "UNAUTHENTICATED")
    made = await small_world.data(
        'mutation { createApiKey(input: {name: "r", scopes: [READ]}) { secret } }', key=account.key
    )
    response = await post(small_world, made["createApiKey"]["secret"], untouched())
    assert (response.status_code, response.json()["code"]) == (403, "FORBIDDEN")


async def test_a_file_that_is_too_large_is_refused_before_it_is_read(small_world: World) -> None:
    account = await small_world.account()
    async with unchanged(small_world):
        response = await post(small_world, account.key, untouched(), {"content-length": str(MAX_BYTES + 1)})
        assert (response.status_code, response.json()["code"]) == (413, "TOO_LONG")
        response = await post(small_world, account.key, untouched(), {"content-type": "image/png"})
        assert response.status_code == 415
        assert "without a Content-Type or with one of text/csv, " in response.json()["message"]
        response = await post(small_world, account.key, b"")
        assert (response.status_code, response.json()["code"]) == (400, "REQUIRED")


async def test_a_file_may_come_in_a_form(small_world: World) -> None:
    meter = await metered(small_world)
    async with client(small_world) as opened:
        headers = {"x-api-key": meter.account.key}
        files = {"file": ("may.csv", CONTENT.encode(), "text/csv")}
        response = await opened.post("/imports", headers=headers, files=files, data={"note": "of May"})
        assert response.status_code == 202, response.text
        await work(small_world)
        found = await report(small_world, meter.account.key, response.json()["fileImportId"])
        assert (found["status"], found["fileName"], found["bytes"]) == ("COMPLETED", "may.csv", len(CONTENT))
        async with unchanged(small_world):
            several = [("file", ("a.csv", b"1")), ("file", ("b.csv", b"2"))]
            for bad in ({"files": several}, {"data": {"note": "x"}, "files": {"file": (None, b"1")}}):
                response = await opened.post("/imports", headers=headers, **bad)
                assert (response.status_code, response.json()["code"]) == (400, "INVALID")
            form = {**headers, "content-type": "multipart/form-data; boundary=b"}
            for body in (
                b"--b",
                b"rubbish",
                b"--b\r\nA: b\r\n\r\n\r\n" * 101
                + b'--b\r\nContent-Disposition: form-data; filename="x"\r\n\r\n1\r\n--b--\r\n',
                b'--b\r\nContent-Disposition: form-data; filename="x"\r\n\r\nhalf',
            ):
                response = await opened.post("/imports", headers=form, content=body)
                assert (response.status_code, response.json()["code"]) == (400, "INVALID")


async def test_a_repeated_request_makes_one_import(world: World) -> None:
    meter = await metered(world)
    key = {"idempotency-key": "one"}
    first = await post(world, meter.account.key, CONTENT, key, fileName="a.csv")
    again = await post(world, meter.account.key, CONTENT, key, fileName="a.csv")
    assert first.json() == again.json()
    other = await post(world, meter.account.key, CONTENT, key, fileName="b.csv")
    assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_KEY_REUSED")
    rows = await state(world)
    assert len(rows["file_imports"]) == 1
    assert {one["import_id"] for one in rows["file_import_chunks"]} == {first.json()["fileImportId"]}


async def test_a_file_whose_request_was_cut_off_goes_after_two_hours(world: World) -> None:
    meter = await metered(world)
    response = await post(world, meter.account.key, CONTENT)
    for import_id in ("imp_cut_off", "imp_under_way"):
        await kept_files.keep(world.database, import_id, 0, CONTENT.encode())
    async with world.database.transaction() as session:
        old = update(FileImportChunk).where(col(FileImportChunk.import_id) != "imp_under_way")
        await session.execute(old.values(created_at=clock.now() - timedelta(hours=3)))
    await keep_house(world.database)
    kept = {one["import_id"] for one in (await state(world))["file_import_chunks"]}
    assert kept == {"imp_under_way", response.json()["fileImportId"]}


async def test_an_upload_that_goes_on_for_hours_is_kept(world: World) -> None:
    for number in (0, 1):
        await kept_files.keep(world.database, "imp_slow", number, b"x")
    async with world.database.transaction() as session:
        first = update(FileImportChunk).where(col(FileImportChunk.number) == 0)
        await session.execute(first.values(created_at=clock.now() - timedelta(hours=3)))
    await keep_house(world.database)
    assert len((await state(world))["file_import_chunks"]) == 2


async def test_a_kept_file_is_not_read_without_its_last_chunk(world: World) -> None:
    await kept_files.keep(world.database, "imp_cut", 0, b"12345")
    with await kept_files.open_kept(world.database, "imp_cut", 5) as file:
        assert file.read() == b"12345"
    with pytest.raises(kept_files.FileIncomplete):
        await kept_files.open_kept(world.database, "imp_cut", 6)


async def test_files_that_began_together_have_no_more_room(small_world: World) -> None:
    account = await small_world.account()

    async def body() -> AsyncIterator[bytes]:
        yield CONTENT.encode()
        for _ in range(MOST_WAITING):
            assert (await post(small_world, account.key, CONTENT)).status_code == 202

    response = await post(small_world, account.key, body())
    assert (response.status_code, response.json()["code"]) == (429, "LIMIT_REACHED")
    rows = await state(small_world)
    assert (
        len(rows["file_imports"])
        == len({one["import_id"] for one in rows["file_import_chunks"]})
        == MOST_WAITING
    )


async def test_an_account_has_fifty_files_arriving_at_most(small_world: World) -> None:
    account, other = await small_world.account(), await small_world.account()
    begun, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"meter_"
        begun.release()
        await go_on.wait()
        yield b"number\n"

    async with client(small_world) as opened:

        async def upload(key: str, content: Any) -> int:
            sent = await opened.post(
                "/imports", content=content, headers={"x-api-key": key, "content-type": "text/csv"}
            )
            return sent.status_code

        arriving = [asyncio.create_task(upload(account.key, slow())) for _ in range(MOST_WAITING)]
        for _ in arriving:
            await begun.acquire()
        assert await upload(account.key, untouched()) == 429
        assert await upload(other.key, CONTENT) == 202
        go_on.set()
        assert [await one for one in arriving] == [202] * MOST_WAITING


def test_bytes_that_arrive_are_bounded_and_forgotten() -> None:
    arrivals = Arrivals()
    with arrivals.of("acc_1") as first, arrivals.of("acc_1") as second, arrivals.of("acc_2") as other:
        first(MOST_WAITING_BYTES - 1)
        second(1)
        with pytest.raises(Refusal):
            second(1)
        other(1)
    with arrivals.of("acc_1") as again:
        again(MOST_WAITING_BYTES)


async def test_an_account_has_fifty_imports_under_way_at_most(small_world: World) -> None:
    account, other = await small_world.account(), await small_world.account()
    for _ in range(MOST_WAITING):
        assert (await post(small_world, account.key, CONTENT)).status_code == 202
    response = await post(small_world, account.key, untouched())
    assert (response.status_code, response.json()["code"]) == (429, "LIMIT_REACHED")
    assert "retry-after" in response.headers
    assert (await post(small_world, other.key, CONTENT)).status_code == 202


async def test_others_imports_are_not_there(small_world: World) -> None:
    meter = await metered(small_world)
    other = await small_world.account()
    response = await post(small_world, meter.account.key, CONTENT)
    import_id = response.json()["fileImportId"]
    token = await small_world.data(
        "mutation ($id: ID!) { createStreamToken(input: {customerId: $id}) { token } }",
        {"id": meter.customer_id},
        key=meter.account.key,
    )
    async with client(small_world) as opened:
        for key in (other.key, token["createStreamToken"]["token"]):
            response = await opened.get(f"/imports/{import_id}", headers={"x-api-key": key})
            assert response.status_code == 404
        response = await opened.get("/imports/imp_x", headers={"x-api-key": meter.account.key})
        assert (response.status_code, response.json()["code"]) == (404, "NOT_FOUND")
