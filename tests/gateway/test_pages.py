"""The pages, in Debian's Chromium: a folder is sent, watched and played through the move to IPFS and a second revision,
and whatever strangers write stays text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Browser, Page
from pydantic import SecretStr

from hls_pipeline import clock, work
from hls_pipeline.gateway import access, pages, vendor
from tests.gateway.conftest import Gateway
from tests.gateway.test_intake import as_files, post
from tests.hls.conftest import CORPUS
from tests.services import Files, World, package, sample

AXE = vendor.Vendored(
    "axe-core@4.11.0", "package/axe.min.js", "e9e5863c33a874f09bc01acd9234b7e3c871479f5eef8802fa582544465e6d01"
)
PATIENCE = 60_000
"""Milliseconds; nothing takes so long, unless the machine is very busy."""
EVIL = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new visitor. What breaks in a script or against the policy fails the test."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "console",
        lambda message: complaints.append(message.text) if "Content Security Policy" in message.text else None,
    )
    yield opened
    context.close()
    assert complaints == []


@pytest.fixture
def local(world: World, gateway_with: Callable[..., Gateway], tmp_path: Path) -> Gateway:
    """As on a local stack: visitors from this machine may send."""
    return gateway_with(page_key=SecretStr(access.ensure_local_key(world.store, tmp_path / "key")))


def folder(files: Files, at: Path) -> Path:
    for path, data in files.items():
        place = at / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return at


def plays(page: Page, beyond: float) -> None:
    page.wait_for_function("t => document.getElementById('player').currentTime > t", arg=beyond)


def drop(page: Page, what: Path) -> None:
    """As a hand does it: the browser itself makes the drag's events, over the drop zone, with files of this machine."""
    box = page.locator("#drop").bounding_box()
    assert box is not None
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(what)], "dragOperationsMask": 1}
        session.send("Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 50, "y": box["y"] + 50, "data": data})
        if kind == "dragOver":
            assert "over" in (page.get_attribute("#drop", "class") or "")


def smallest() -> Files:
    """The smallest rendition of the sample, alone."""
    return {path.removeprefix("144p/"): data for path, data in sample().items() if path.startswith("144p/")}


def two_minutes(title: str) -> Files:
    """The smallest rendition of the sample again and again: longer than the player reads ahead."""
    shipped = sample()
    files = {path: data for path, data in shipped.items() if path.startswith(("144p/", "audio/"))}
    for path in ("144p/index.m3u8", "audio/index.m3u8"):
        head, first, rest = shipped[path].partition(b"#EXTINF")
        body = (first + rest).removesuffix(b"#EXT-X-ENDLIST\n")
        files[path] = head + b"#EXT-X-DISCONTINUITY\n".join([body] * 12) + b"#EXT-X-ENDLIST\n"
    files["words/index.m3u8"] = b"#EXTM3U\n#EXT-X-TARGETDURATION:120\n#EXTINF:120,\nall.vtt\n#EXT-X-ENDLIST\n"
    files["words/all.vtt"] = b"WEBVTT\n\n00:00.000 --> 01:59.000\nGood evening\n"
    media, *variants = shipped["master.m3u8"].split(b"#EXT-X-STREAM-INF:")
    words = b'#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="words",NAME="Words",DEFAULT=YES,URI="words/index.m3u8"\n'
    files["master.m3u8"] = media + words + b'#EXT-X-STREAM-INF:SUBTITLES="words",' + variants[-1]
    return {**files, "metadata.json": json.dumps({"title": title}).encode()}


def test_a_folder_is_sent_watched_and_played_through_the_move_to_ipfs(
    local: Gateway, page: Page, tmp_path: Path
) -> None:
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.setCacheDisabled", {"cacheDisabled": True})
    # What a proxy says while the gateway starts again: a browser follows no more, and a player does not ask again.
    page.route("**/events", lambda route: route.fulfill(status=502), times=1)
    page.route("**/play/master.m3u8?*", lambda route: route.fulfill(status=502), times=2)
    page.goto(local.url)
    drop(page, folder(two_minutes("First cut"), tmp_path / "aurora"))
    page.wait_for_url("**/videos/*")
    assert page.inner_text("#state") == "Moving to IPFS"
    page.evaluate("document.getElementById('player').play()")
    plays(page, 0.5)
    page.wait_for_function(
        "() => document.getElementById('player').textTracks[0]?.activeCues?.[0]?.text === 'Good evening'"
    )
    assert page.inner_text("#state") == "Moving to IPFS"

    video_id = page.url.rpartition("/")[2]
    upload = local.world.store.latest_upload(video_id)
    assert upload is not None
    local.world.walk(upload)
    local.world.step("clear_temp_storage", upload, "clear:test")
    page.wait_for_selector("#state:has-text('Published')")
    page.wait_for_selector("#places:has-text('removed')")
    page.wait_for_selector("#about:has-text('Against the estimate')")
    assert page.locator("#percent").inner_text() == "100 %"
    with page.expect_response("**/play/144p/seg_*.ts?*") as media:
        page.evaluate("document.getElementById('player').currentTime = 110")
    assert media.value.status == 200
    plays(page, 110.5)

    local.world.publish_package(video_id, two_minutes("Second cut"))
    page.wait_for_selector("#newer:visible")
    assert (page.inner_text("h1"), page.title()) == ("Second cut", "Second cut · hls-pipeline")
    assert page.evaluate("document.getElementById('player').currentTime") > 110, "nobody is interrupted"
    with page.expect_response(lambda answer: "/144p/seg_" in answer.url) as media:
        page.evaluate("document.getElementById('player').currentTime = 20")
    assert media.value.url.endswith("?revision=1"), "nobody is handed files of another cut"
    plays(page, 20.5)
    page.click("#reload")
    page.wait_for_selector("#newer", state="hidden")
    plays(page, 0.2)
    entries = page.locator("#timeline > ol > li")
    assert entries.count() == 4
    assert "sha256:" not in entries.first.inner_text(), "the seal of the evidence is shortened"
    local.ask("DELETE", f"/v1/videos/{video_id}", params={"reason": "over"}, headers=local.bearer).raise_for_status()
    page.wait_for_selector("#stage:has-text('Nothing to play')")
    assert page.is_hidden("#player")


def test_parts_left_in_a_finished_playlist_are_passed_over(local: Gateway, page: Page) -> None:
    """The player took it for a live one, and loaded the first segment a hundred times a second instead of the next."""
    files = smallest()
    part = rb'#EXT-X-PART:DURATION=\1,URI="\2",INDEPENDENT=YES\n\g<0>'
    body = re.sub(rb"#EXTINF:(.*),\n(.*)\n", part, files["index.m3u8"])
    low = b"#EXTM3U\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=3\n#EXT-X-PART-INF:PART-TARGET=4.1\n"
    local.world.publish_package("film", {**files, "index.m3u8": body.replace(b"#EXTM3U\n", low)})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2].partition("?")[0]))
    with page.expect_request("**/seg_004.ts?*"):
        page.goto(local.url + "/videos/film")
    assert asked.count("seg_000.ts") == 1


def test_a_video_that_begins_with_a_gap_begins_after_it(local: Gateway, page: Page) -> None:
    files = smallest()
    files["index.m3u8"] = files["index.m3u8"].replace(b"#EXTINF", b"#EXT-X-GAP\n#EXTINF", 1)
    local.world.publish_package("film", files)
    page.goto(local.url + "/videos/film")
    page.evaluate("document.getElementById('player').play()")
    plays(page, 2.2)


def test_the_page_says_why_it_cannot_play(local: Gateway, page: Page) -> None:
    """Where keys were missing it stayed black, without a word."""
    for video_id, name in (("locked", "shaka-hls-sample-aes"), ("strange", "media3-multi-segment")):
        files = {path.name: path.read_bytes() for path in (CORPUS / "packages" / name).iterdir()}
        index = files.pop("index.m3u8", b"").replace(b'"identity"', b'"com.apple.streamingkeydelivery"')
        local.world.publish_package(video_id, {**files, "index.m3u8": index} if index else files)
    for video_id, reason in (("locked", "encrypted"), ("strange", "cannot decode")):
        page.goto(local.url + f"/videos/{video_id}")
        page.wait_for_selector(f"#trouble:visible:has-text('{reason}')")


def test_a_refused_package_shows_its_report(local: Gateway, page: Page, tmp_path: Path) -> None:
    broken = package("broken")
    del broken["v/s1.ts"]
    page.goto(local.url)
    page.set_input_files("#folder", folder(broken, tmp_path / "broken"))
    page.wait_for_selector("#result .findings")
    shown = page.inner_text("#result")
    assert "Refused: 1 fault" in shown
    assert "v/index.m3u8:8" in shown
    assert "URI_MISSING_FILE" in shown
    assert page.evaluate("document.activeElement.id") == "result", "screen readers are taken there"


def test_a_second_drop_waits_and_who_cancels_is_taken_back(local: Gateway, page: Page, tmp_path: Path) -> None:
    page.route("**/v1/videos", lambda route: None)  # it takes its time
    page.goto(local.url)
    for name in ("one", "two"):
        page.set_input_files("#folder", folder(package(name), tmp_path / name))
    page.wait_for_selector("#announce:has-text('already')", state="attached")
    page.click("#cancel")
    page.wait_for_selector("#choose-folder")
    assert page.evaluate("document.activeElement.id") == "choose-folder", "the button that was pressed is gone"


def test_what_strangers_write_stays_text(local: Gateway, page: Page, tmp_path: Path) -> None:
    files = {**package("x"), "metadata.json": json.dumps({"title": EVIL, "description": EVIL, EVIL: EVIL}).encode()}
    local.world.publish_package("evil", files)
    broken = {**files, "master.m3u8": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{EVIL}.m3u8\n".encode()}
    local.world.walk(local.world.drop("worse", broken), "stage")
    local.world.publish_package("gone", {**files, "master.m3u8": files["master.m3u8"] + b"# gone\n"})
    local.ask("DELETE", "/v1/videos/gone", params={"reason": EVIL}, headers=local.bearer).raise_for_status()
    for path in ("/", "/videos/evil", "/videos/worse", "/videos/gone", f"/videos/{EVIL}"):
        page.goto(local.url + path)
        page.wait_for_timeout(700)
        assert page.evaluate("window.hacked") is None
        assert page.locator("img").count() == 0
    page.goto(local.url)
    assert EVIL in page.inner_text("#videos")
    page.set_input_files("#folder", folder({**broken, "<script>.ts": b"G"}, tmp_path / "evil"))
    page.wait_for_selector("#result .findings")
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_accessibility_fault(
    local: Gateway, browser: Browser, scheme: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    axe = vendor.fetch(tmp_path_factory.getbasetemp() / "axe.min.js", AXE).read_text()
    broken = package("broken")
    del broken["v/s1.ts"]
    local.world.publish_package("film", package("film"))
    local.world.walk(local.world.drop("broken", broken), "stage")
    context = browser.new_context(color_scheme=scheme, viewport={"width": 390, "height": 844})  # type: ignore[arg-type]
    opened = context.new_page()
    for path in ("/", "/videos/film", "/videos/broken", "/videos/nobody"):
        opened.goto(local.url + path)
        opened.evaluate("document.querySelectorAll('details').forEach(item => { item.open = true })")
        opened.evaluate(axe)
        found = opened.evaluate("axe.run().then(result => result.violations)")
        serious = [
            (item["id"], item["nodes"][0]["html"]) for item in found if item["impact"] in ("serious", "critical")
        ]
        assert serious == [], path
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is wider than a phone"
    context.close()


def test_without_scripts_nothing_is_offered_that_would_not_work(local: Gateway, browser: Browser) -> None:
    local.world.publish_package("film", package("film"))
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    for path, instead in (("/", "hls-pipeline submit"), ("/videos/film", "in another player")):
        opened.goto(local.url + path)
        assert opened.locator("button:visible").count() == 0
        assert instead in opened.inner_text("main")
    context.close()


def test_nothing_moves_for_who_wants_no_motion(local: Gateway, browser: Browser) -> None:
    """The point that beats beside a state is a pseudo-element, which `*` does not match."""
    local.world.drop("film", package("film"))
    beats = "getComputedStyle(document.querySelector('.pill'), '::before').animationName"
    for motion, name in (("no-preference", "pulse"), ("reduce", "none")):
        context = browser.new_context(reduced_motion=motion)  # type: ignore[arg-type]
        opened = context.new_page()
        opened.goto(local.url)
        assert opened.evaluate(beats) == name
        context.close()


def test_a_difference_shows_what_is_short_in_full() -> None:
    """Of tags only the first was shown, which was often the same."""
    (tags,) = pages._differences({"tags": ["a"]}, {"tags": ["a", "b"]})
    assert (tags["before"], tags["after"]) == ('["a"]', '["a", "b"]')
    (segments,) = pages._differences({"segments": []}, {"segments": ["s3://media/x"] * 20})
    assert segments["after"] == "20 entries, first s3://media/x"


def test_the_list_works_by_keyboard(local: Gateway, page: Page) -> None:
    local.world.publish_package("film", package("film"))
    page.goto(local.url)
    stops = []
    for _ in range(7):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.textContent.trim()"))
    assert stops[0] == "Skip to content"
    assert "Choose folder" in stops
    assert stops[-1] == "film"
    assert page.evaluate("getComputedStyle(document.activeElement.closest('.card')).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_url("**/videos/film")


def test_the_keyboard_stays_where_it_is_while_the_page_changes(local: Gateway, page: Page) -> None:
    """With anything in work, the list threw it back to the top every two seconds."""
    local.world.publish_package("film", package("film"))
    page.goto(local.url)
    page.focus(".cards a[href='/videos/film']")
    local.world.publish_package("other", package("other"))
    page.wait_for_selector(".cards a[href='/videos/other']")
    assert page.evaluate("document.activeElement.pathname") == "/videos/film"


def test_a_page_that_nobody_looks_at_holds_no_connection(local: Gateway, page: Page) -> None:
    """With six videos in tabs of their own, a browser opened nothing more of this site."""
    local.world.publish_package("film", package("First cut"))
    looks = """looked => {
        Object.defineProperty(document, "hidden", { value: !looked, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    with page.expect_response("**/events"):
        page.goto(local.url + "/videos/film")
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/events")):
        page.evaluate(looks, False)
    local.world.publish_package("film", package("Second cut"))
    page.evaluate(looks, True)
    page.wait_for_selector("h1:has-text('Second cut')")


def test_a_page_that_is_open_for_days_keeps_nothing_of_what_it_fetched(local: Gateway, page: Page) -> None:
    local.world.publish_package("film", package("film"))
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def documents() -> int:
        session.send("HeapProfiler.collectGarbage")
        return next(
            each["value"] for each in session.send("Performance.getMetrics")["metrics"] if each["name"] == "Documents"
        )

    page.goto(local.url + "/videos/film")
    look = "import('/static/live.js').then(async live => { for (let n = 0; n < 20; n++) await live.refresh(); })"
    page.evaluate(look)
    before = documents()
    page.evaluate(look)
    assert documents() < before + 5


def test_a_link_is_selected_where_a_page_may_not_copy(local: Gateway, page: Page) -> None:
    """Over plain HTTP from another machine, the button seemed to do nothing."""
    local.world.publish_package("film", package("film"))
    page.goto(local.url + "/videos/film")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.click("[aria-label='Copy Play link']")
    page.wait_for_selector("#announce:has-text('Selected')", state="attached")
    assert page.evaluate("getSelection().toString()") == f"{local.url}/v1/videos/film/play/master.m3u8"


def test_an_older_answer_never_comes_after_a_newer_one(local: Gateway, page: Page) -> None:
    page.goto(local.url)
    looks = """async () => {
        const { refresh } = await import("/static/live.js"), real = fetch;
        let now = 0, most = 0;
        window.fetch = (...about) => {
            most = Math.max(most, ++now);
            return real(...about).finally(() => { now -= 1; });
        };
        return [await Promise.all([refresh(), refresh(), refresh()]), most];
    }"""
    assert page.evaluate(looks) == [[True, True, True], 1]


def test_times_are_the_viewers_and_states_are_told_as_they_are_read(local: Gateway, browser: Browser) -> None:
    upload = local.world.walk(local.world.drop("film", package("film")), "stage", "write_s3_manifest")
    context = browser.new_context(timezone_id="Asia/Kolkata")
    context.set_default_timeout(PATIENCE)
    opened = context.new_page()
    opened.goto(local.url + "/videos/film")
    opened.wait_for_function("document.getElementById('eta').textContent")  # it follows
    local.world.walk(upload, "publish", "write_ipfs_manifest", "finalize")
    opened.wait_for_selector("#announce:has-text('Published')", state="attached")
    *_, (_, published, _) = local.world.store.history(upload.upload_id)
    there = published.astimezone(ZoneInfo("Asia/Kolkata"))
    assert opened.inner_text("#steps li:nth-child(4) time") == f"{there:%H:%M:%S}"
    time = opened.locator("#timeline time").first
    assert time.inner_text().endswith(f"{there:%Y, %H:%M:%S}")
    assert time.get_attribute("title") == clock.text(published), "exactly, for who points at it"
    context.close()


def test_a_page_of_the_list_leads_to_the_next_only_where_there_is_one(
    local: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_PER_PAGE", 1)
    uploads = [local.world.publish_package(name, package(name)) for name in ("one", "two")]
    first, second, beyond = (local.get(path).text for path in ("/", *(f"/?after={u.upload_id}" for u in uploads[::-1])))
    assert ("/videos/two" in first, "Older videos" in first, "Newest videos" in first) == (True, True, False)
    assert ("/videos/one" in second, 'rel="next"' in second, "Newest videos" in second) == (True, False, True)
    assert ("None is older" in beyond, "Newest videos" in beyond) == (True, True), "it was empty, and led nowhere"


def test_a_page_says_which_node_is_behind_and_why_s3_keeps_its_copies(local: Gateway) -> None:
    upload = local.world.publish_package("film", package("film"))
    with work.holding(upload, "clear:test", local.world.store, local.world.settings, last=True) as lease:
        behind = {"finding": "node_behind", "root": upload.root, "node": "10.0.0.3:5001", "reason": "is down"}
        odd = {"finding": "object_changed", "object": "s3://media/film/r1/x.ts", "reason": "was replaced just now"}
        local.world.store.add_receipts(lease, "finding", [behind, odd], clock.now())
    text = local.get("/videos/film").text
    assert "10.0.0.3:5001</code></strong><span>lacked it" in text
    assert "kept, because <code>s3://media/film/r1/x.ts</code> was replaced just now" in text
    with work.holding(upload, "repin:test", local.world.store, local.world.settings, last=True) as lease:
        proof = {"root": upload.root, "node": "10.0.0.3:5001", "peer_id": "12D3KooWThree", "level": "complete"}
        local.world.store.add_receipts(lease, "proof", [{**proof, "at": clock.text(clock.now())}], clock.now())
    assert "lacked it" not in local.get("/videos/film").text


def test_how_long_is_told_so_that_it_can_be_read() -> None:
    """A long video was `about 5400 s` away."""
    assert [pages.span(seconds) for seconds in (0.44, 12, 5400, 12600)] == ["0.4 s", "12 s", "90 min", "3.5 h"]


# ---- who may ------------------------------------------------------------------------------------------------------


def test_a_stranger_signs_in_with_a_key_and_out_again(
    gateway_with: Callable[..., Gateway], page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hls_pipeline.gateway.events._ASK_AGAIN_SECONDS", 0)
    monkeypatch.setattr("hls_pipeline.gateway.followers._BEAT_SECONDS", 0.2)
    gateway = gateway_with(public_read=False)
    gateway.world.publish_package("film", package("film"))
    page.goto(gateway.url + "/videos/film")
    assert page.locator("#player").count() == 0
    page.fill("#key", "hls_wrong_key")
    page.click("form button.primary")
    page.wait_for_selector("[role=alert]")
    page.fill("#key", gateway.key)
    page.click("form button.primary")
    page.wait_for_selector("#drop")
    assert page.locator(".cards li").count() == 1
    others = [page.context.new_page() for _ in range(2)]
    for other, path in zip(others, ("/", "/videos/film"), strict=True):
        other.goto(gateway.url + path)
    page.click("text=Sign out")
    for tab in (page, *others):  # the others showed for ever what may be read no more
        tab.wait_for_selector("#key")


def test_a_session_is_given_to_this_machine_alone_and_only_under_its_own_name(local: Gateway) -> None:
    assert access.COOKIE in local.get("/").cookies
    assert local.get("/", Host="evil.example").cookies.get_dict() == {}, "another site's name bent to this address"
    assert local.get("/", X_Forwarded_For="203.0.113.9").cookies.get_dict() == {}, "somebody behind a proxy"


def test_a_session_serves_no_page_of_another_site(local: Gateway) -> None:
    session = local.get("/").cookies[access.COOKIE]
    headers = {"Cookie": f"{access.COOKIE}={session}"}
    files = [("files", ("master.m3u8", b"#EXTM3U"))]
    for origin in ({}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        answer = local.ask("POST", "/v1/videos", files=files, headers={**headers, **origin})
        assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")
    own = local.ask("POST", "/v1/videos", files=files, headers={**headers, "Origin": local.url})
    assert own.status_code == 422


def test_what_was_sent_in_vain_hides_nothing_of_what_is_there(local: Gateway) -> None:
    """After the same package again, or a refused one, the page said that the bytes were nowhere."""
    broken = package("film")
    del broken["v/s1.ts"]
    local.world.publish_package("film", package("film"))
    for files, word in ((package("film"), "Unchanged"), (broken, "Refused")):
        post(local, as_files(files), "?video_id=film")
        text = local.get("/videos/film").text
        assert word in text
        assert "proven complete" in text
        assert "<dd>r1</dd>" in text


def test_pages_allow_no_inline_script(local: Gateway) -> None:
    local.world.publish_package("film", package("film"))
    for path in ("/", "/videos/film", "/videos/nobody"):
        answer = local.get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "style=" not in answer.text
        assert "onclick=" not in answer.text


# ---- events -------------------------------------------------------------------------------------------------------


def test_events_tell_each_change_of_a_video(gateway: Gateway) -> None:
    upload = gateway.world.drop("film", package("film"))
    with gateway.ask("GET", "/v1/videos/film/events", stream=True) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        lines = stream.iter_lines(chunk_size=1, decode_unicode=True)
        assert _next_status(lines)["state"] == "received"
        gateway.world.walk(upload)
        while (status := _next_status(lines))["state"] != "published":
            assert status["percent"] < 100
        assert (status["percent"], status["revision"]) == (100, 1)


def _next_status(lines: Iterator[Any]) -> dict[str, Any]:
    data = next(line for line in lines if line.startswith("data: "))
    return dict(json.loads(data.removeprefix("data: ")))
