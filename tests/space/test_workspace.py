# SPDX-License-Identifier: Apache-2.0
"""The workspace as a whole: every control at every size, keys, restored state, projects, recordings of phones."""

import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from space import studio
from space.serving import Space
from space.studio import Browser, Page, expect
from vocals import EXAMPLE

SIZES = {"wide": (1440, 900), "narrow": (1024, 768), "phone": (390, 844)}
OPTIONS = [{"viewport": {"width": wide, "height": high}, "has_touch": wide < 500} for wide, high in SIZES.values()]
# CSS selector of controls that other tests cover: they need a microphone, a file, another voice or a new song
ELSEWHERE = "[data-do=sing], [data-do=record], [data-do=again], [data-do=measure], [data-do=open], [data-do=load]"
# a song is not shared once all its lanes are muted, as this test has done by then
ELSEWHERE += ", [data-file=song], [data-do=new], #run, #stop, #remake"
ELSEWHERE += ", #model input, #style input, .voices *, dialog *, :disabled"
# marks the first visible control that has not been operated yet with data-now and returns its type; null: none is left
NEXT = """(elsewhere) => {
    const done = window.operated ??= new Set();
    const key = (each) => [each.id, each.ariaLabel, each.textContent.slice(0, 20), each.closest('.block')?.id,
        each.type, each.dataset.do, each.dataset.set, each.value].join();
    document.querySelectorAll('[data-now]').forEach((each) => each.removeAttribute('data-now'));
    const next = [...document.querySelectorAll('#workspace :is(button, summary, select, input)')].find((each) =>
        each.checkVisibility() && each.offsetWidth > 20 && !each.matches(elsewhere) && !done.has(key(each)));
    if (!next) return null;
    done.add(key(next));
    next.dataset.now = '';
    document.querySelectorAll('.pop[open]').forEach((each) => { each.open = each.contains(next); });
    next.scrollIntoView({ block: 'center' });
    return next.type || next.tagName;
}"""
# HTML of the visible controls smaller than 44 px, the least for a finger (43.5: sizes are rounded)
SMALL = """() => [...document.querySelectorAll('#workspace :is(button, input, select, summary)')]
    .filter((each) => each.checkVisibility() && !each.closest('.lane ol'))
    .map((each) => (each.matches('[type=radio], [type=checkbox]') ? each.closest('label') : each))
    .filter((each) => Math.min(each.offsetWidth, each.offsetHeight) < 43.5).map((each) => each.outerHTML)"""


def operate(page: Page, kind: str, touch: bool) -> None:
    """Operates the control that `NEXT` has marked, and waits for its download if it starts one.

    Args:
        page: the page.
        kind: the control's `type`, or its tag name, as `NEXT` returns it.
        touch: whether to tap instead of to click.
    """
    control = page.locator("[data-now]")
    press = control.tap if touch else control.click
    if kind == "select-one":
        control.select_option(index=1)
    elif kind == "range":
        control.press("ArrowLeft")
    elif kind in ("number", "text"):
        control.press("Tab")
    elif control.get_attribute("data-do") in ("file", "save"):
        studio.download_of(page, press)
    else:
        press()


@pytest.mark.parametrize("options", OPTIONS, ids=SIZES)
def test_every_control_works_and_every_style_can_be_generated(page: Page, options: dict[str, object]) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.get_by_role("button", name="Vocal", exact=True).click()
    expect(page.locator("#mixer .takes")).to_contain_text("Take 1 · folk")
    expect(studio.summary(page)).to_contain_text("folk (given)")
    studio.skip_fine(page, seconds=1)
    # take 1 is the example's own
    for take, style in enumerate(("ballad", "folk", "pop", "rock"), start=2):
        page.locator(f"#style input[value={style}]").check()
        studio.generated(page)
        expect(page.locator("#mixer .takes")).to_contain_text(f"Take {take} · {style}")
    # printing is tested elsewhere
    page.evaluate("window.print = () => {}")
    bar = page.locator("#timeline").get_by_role("button", name="Bar 1", exact=True)
    bar.tap() if options["has_touch"] else bar.click()
    studio.keep_screenshot(page, f"selection at {options['viewport']}")
    if options["has_touch"]:
        assert page.evaluate(SMALL) == []
        page.get_by_role("button", name="+ next bar").tap()
        expect(page.locator("#timeline .chosen")).to_contain_text("bars 1 to 2")
        page.get_by_role("button", name="Select nothing").tap()
        expect(page.locator("#timeline .bars :focus")).to_have_count(1)
    operated = 0
    while kind := page.evaluate(NEXT, ELSEWHERE):
        operate(page, kind, bool(options["has_touch"]))
        operated += 1
        if page.locator("dialog").is_visible():
            page.keyboard.press("Escape")
    # fewer would mean that controls were not found
    assert operated > 60
    assert not errors
    expect(page.get_by_role("alert").filter(has_text=re.compile(r"\w"))).to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if options["has_touch"]:
        assert page.evaluate(SMALL) == []


def test_keyboard_shortcuts_play_step_choose_takes_mute_and_list_themselves(page: Page) -> None:
    page.get_by_role("button", name="Vocal", exact=True).click()
    expect(studio.summary(page)).to_contain_text("folk (given)")
    studio.skip_fine(page, 1)
    studio.generated(page)
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    expect(page.locator("#timeline [data-do=play]")).to_have_accessible_name("Stop")
    page.keyboard.press("Space")
    position = page.get_by_label("Position")
    # a slow computer may have played several bars before it was stopped
    for _ in range(8):
        page.keyboard.press("Shift+ArrowLeft")
    assert float(position.input_value()) == 0, "stepping back by bars ends at the beginning"
    page.keyboard.press("ArrowRight")
    assert float(position.input_value()) > 0
    lane, selected = page.locator("#timeline .sung canvas"), page.locator("#timeline .selection")
    lane.drag_to(lane, source_position={"x": 100, "y": 60}, target_position={"x": 300, "y": 60})
    expect(selected).to_be_visible()
    page.keyboard.press("Escape")
    expect(selected).not_to_be_visible()
    takes = page.locator("#mixer").get_by_role("radio")
    for key in ("1", "2"):
        page.keyboard.press(key)
        expect(takes.nth(int(key) - 1)).to_be_checked()
    for key, name in (("m", "Mute voice"), ("s", "Solo voice")):
        page.keyboard.press(key)
        expect(page.get_by_role("button", name=name)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_contain_text("mute, solo")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).not_to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["wide", "phone"])
def test_axe_finds_nothing_serious_on_the_empty_page_its_panels_and_a_song(
    browser: Browser, space: Space, axe: Path, size: str, scheme: str
) -> None:
    width, height = SIZES[size]
    page = studio.open_page(browser, space, viewport={"width": width, "height": height}, color_scheme=scheme)
    findings = {"empty page": studio.findings(page, axe)}
    # the panel "Record to a click"
    page.locator("#recorder summary").click()
    findings["recording to a click"] = studio.findings(page, axe)
    # the list of keyboard shortcuts, over that panel
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    findings["keyboard shortcuts"] = studio.findings(page, axe)
    # Escape closes the list first, then the panel
    for closed in (page.get_by_role("dialog"), page.locator("#recorder [data-do=record]")):
        page.keyboard.press("Escape")
        expect(closed).not_to_be_visible()
    # an example with a band, a selected bar, the ways to a new voice and, on a phone, the folded controls of the song
    page.get_by_role("button", name="Vocal", exact=True).click()
    expect(studio.summary(page)).to_contain_text("folk (given)")
    studio.press(page, "Bar 2")
    page.locator("#recorder [data-do=new]").click()
    if size == "phone":
        page.locator("[data-do=all]").click()
    findings["song with everything open"] = studio.findings(page, axe)
    studio.keep_screenshot(page, f"all {size} {scheme}")
    page.context.close()
    assert findings == dict.fromkeys(findings, [])


def expect_kept(page: Page, shown: list[str]) -> None:
    """Waits for the state of the test below: a kept take "Mine" in rock, muted drums, given chords `shown`."""
    expect(page.locator("#mixer .takes")).to_contain_text("Mine · rock")
    for name in ("Keep Mine", "Mute drums"):
        expect(page.get_by_role("button", name=name)).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#style input[value=rock]")).to_be_checked()
    expect(studio.summary(page)).to_contain_text("chords (given)")
    assert studio.chords(page) == shown


def test_the_workspace_survives_a_reload_and_a_project_moves_it_to_another_user(
    page: Page, browser: Browser, space: Space, voices: Path
) -> None:
    another = studio.open_page(browser, space, "?seed=7&seconds=4")
    studio.upload(page, EXAMPLE.with_name("quick_refrain.flac"))
    expect(studio.summary(page)).to_contain_text("chords (estimated)")
    page.locator("#style input[value=rock]").check()
    studio.skip_fine(page)
    studio.generated(page)
    # an uncertain chord, selected alone, offers the estimator's second choice; a selection of several chords does not
    unsure = page.locator("#timeline .chords .unsure")
    expect(unsure).not_to_have_count(0)
    unsure.first.click()
    second_choice = page.locator("#timeline .next")
    page.locator("#timeline .chords li:last-child button").click(modifiers=["Shift"])
    expect(page.locator("#timeline .chosen")).to_contain_text("Selected")
    expect(second_choice).not_to_be_visible()
    unsure.first.click()
    chord = second_choice.inner_text().removesuffix(" instead")
    second_choice.click()
    assert chord in studio.chords(page)
    page.get_by_role("button", name="Name Take 1").click()
    page.keyboard.type("Mine")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Name Mine")).to_be_focused()
    # Escape discards a name
    page.keyboard.press("Enter")
    page.keyboard.type("Yours")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Keep Mine").click()
    page.get_by_role("button", name="Mute drums").click()
    shown = studio.chords(page)
    # reload while the voice is still being analysed
    page.route("**/predict*", lambda route: None)
    page.reload()
    expect(page.locator("#recorder .status").last).to_contain_text("Listening")
    page.unroute("**/predict*")
    page.reload()
    expect_kept(page, shown)
    project, band = studio.downloaded(page, "Save project"), studio.downloaded(page, "Download band")
    # users do not see each other's voices, takes or settings, except through a project
    expect(another.locator("#mixer .takes").get_by_role("radio")).to_have_count(0)
    expect(another.locator("#style input[value=rock]")).not_to_be_checked()
    another.locator("#recorder input[type=file]").set_input_files(project)
    expect_kept(another, shown)
    assert {Path(name).suffix for name in zipfile.ZipFile(project).namelist() if "/" in name} == {".json", ".flac"}
    assert studio.downloaded(another, "Download band").read_bytes() == band.read_bytes()
    another.locator("#recorder input[type=file]").set_input_files(voices / "fake.zip")
    expect(studio.announced(another)).to_contain_text("fake.zip is not a project of this page")
    another.context.close()


def test_takes_survive_a_refused_file_another_voice_and_a_running_generation(page: Page, voices: Path) -> None:
    takes = page.locator("#mixer").get_by_role("radio")
    previous_voice = page.get_by_role("button", name="Previous voice")
    page.get_by_role("button", name="Vocal", exact=True).click()
    expect(takes).to_have_count(1)
    # a refused file
    studio.upload(page, voices / "silent.wav")
    expect(studio.announced(page)).to_contain_text("silent.wav is silent")
    expect(takes).to_have_count(1)
    expect(previous_voice).not_to_be_visible()
    # another voice, and back
    studio.upload(page, voices / "song.wav")
    expect(studio.announced(page)).to_have_text("")
    expect(takes).to_have_count(0)
    previous_voice.click()
    expect(page.locator("#mixer .takes")).to_contain_text("Take 1 · folk")
    expect(studio.summary(page)).to_contain_text("folk (given)")
    expect(previous_voice).not_to_be_visible()
    studio.upload(page, voices / "patience.wav")
    # no stems of the previous voice
    expect(page.locator(".stems canvas")).to_have_count(0)
    stop = page.get_by_role("button", name="Stop the band")
    keep_mine = page.get_by_role("button", name="Keep Mine")
    # the second click of a double click starts nothing
    page.get_by_role("button", name="Play a band").dblclick()
    expect(page.locator(".stems canvas")).to_have_count(4)
    stop.click()
    expect(takes).to_be_checked()
    # the stopped take is named and kept while the next one is generated
    studio.generate(page)
    page.get_by_role("button", name="Name Take 2").click()
    page.keyboard.type("Mine")
    page.get_by_role("button", name="Keep Take 2").click()
    # the take in progress plays instead
    expect(takes).not_to_be_checked()
    expect(keep_mine).to_have_attribute("aria-pressed", "true")
    # other voices while it is generated
    studio.upload(page, voices / "song.wav")
    expect(page.locator(".stems canvas")).to_have_count(0)
    page.get_by_role("button", name="New voice").click()
    page.get_by_role("button", name="Low ballad", exact=True).click()
    expect(page.locator("#mixer .takes")).to_contain_text("Take 3 · ballad")
    with page.expect_response(lambda reply: "predict" in reply.url and "Take 4" in reply.text()):
        stop.click()
    expect(takes).to_be_checked()
    # the voice of before has the kept take and the one that was stopped
    previous_voice.click()
    expect(takes).to_have_count(2)
    expect(keep_mine).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="New voice").click()
    page.get_by_role("button", name="Vocal", exact=True).click()
    expect(page.locator("#mixer .takes")).to_contain_text("Take 1 · folk")


# what a file dropped onto the page comes in
DATA_TRANSFER = """([bytes, name]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name));
    return data;
}"""


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("b.3gp", "aac"), ("c.webm", "libopus")])
def test_phone_recordings_can_be_dropped_onto_the_page(page: Page, tmp_path: Path, name: str, codec: str) -> None:
    path = tmp_path / name
    command = ["ffmpeg", "-v", "error", "-i", str(EXAMPLE), "-t", "4", "-c:a", codec, str(path)]
    subprocess.run(command, check=True, timeout=60)
    data = page.evaluate_handle(DATA_TRANSFER, [list(path.read_bytes()), name])
    page.locator("#recorder [data-do=sing]").click()
    expect(page.locator("#recorder .status")).to_have_text("Recording: 1 s")
    page.dispatch_event("#workspace", "drop", {"dataTransfer": data})
    expect(studio.summary(page)).to_contain_text("(estimated)")
    expect(page.locator("#timeline .clock")).to_contain_text("/ 0:04.")
