"""The pages: what stands where."""

from __future__ import annotations

from pathlib import Path

from benchmarks.published import PUBLISHED, PUBLISHED_LABEL
from benchmarks.scene_sheets import sections
from benchmarks.scene_sheets.prose import KEPT_EVERYWHERE, PROSE, VERSIONS
from benchmarks.scene_sheets.sections import table
from copo_envs.scenes import SCENES, get_scene

FOLDER = Path(__file__).parent.parent.parent / "docs" / "scenes"
NOTICE = "<!-- Made by `python -m benchmarks.scene_sheets`: change that, not this. -->"


def pages() -> dict[Path, str]:
    """File -> text."""
    return {FOLDER / "README.md": index(), **{FOLDER / f"{scene}.md": sheet(scene) for scene in SCENES}}


def index() -> str:
    """Markdown of the table of scenes."""
    rows = []
    for name, scene in SCENES.items():
        best = PUBLISHED.get(name, {}).get("CoPO", "-")
        rows.append(
            (
                f'[`{name}`]({name}.md)<br><img src="../images/scenes/{name}.png" width="160" alt="">',
                f"{scene.num_agents} ({scene.capacity})",
                scene.obs_size,
                scene.text,
                best,
            )
        )
    head = ("scene", "vehicles (at most)", "observation", "what makes it hard", "CoPO's published success, %")
    return "\n\n".join(
        [
            NOTICE,
            "# Scenes",
            "A data sheet for each: how to make it, what a vehicle observes, entry by entry, what it does, what it is "
            "rewarded for, how its life ends. What is the same everywhere (views, life cycle, determinism, roads) is "
            "in [environments](../environments.md).",
            table(head, rows),
            "Vehicles: the default, which is the published benchmark's, and what the spawn places hold. "
            f"Success: {PUBLISHED_LABEL}, mean (standard deviation); [arXiv 2110.13827]"
            "(https://arxiv.org/abs/2110.13827), and [what to mind](../benchmark.md#comparing-with-published-numbers) "
            "when comparing.",
            "Every number in the sheets is read from the code or held against it by "
            "[a test](../../tests/benchmarks/test_scene_sheets.py), which computes each entry of the observation and "
            "each term of the reward from MetaDrive's state.\n",
        ]
    )


def sheet(scene: str) -> str:
    """Markdown of one scene's sheet."""
    spec, prose = get_scene(scene), PROSE[scene]
    parts = [
        NOTICE,
        f"# `{scene}`",
        f'<img src="../images/scenes/{scene}.png" alt="{scene} from above">',
        f"**{spec.text}** {prose.task}",
        table(("", ""), sections.facts(scene)),
        f"```python\n{sections.make_lines(scene)}```",
        "[Which view for what](../environments.md#the-views)",
        "## Observation",
        sections.observation(scene),
        "## Action",
        table(("index", "name", "meaning"), sections.actions(scene)),
        "## Reward",
        sections.reward(scene),
        "## How a life ends",
        table(("code", "outcome", "by", "when"), sections.endings(scene)),
        "The first that holds counts. Who arrives vanishes; the others stay in the way for `delay_done` steps. For "
        "each vehicle that has gone a new one, at rest, takes a free spawn place "
        "([life cycle](../environments.md#life-cycle)).",
        "## Infos",
        table(("key", "type", "meaning"), sections.infos(scene)),
        "All of them in every step, of every agent, the last five in the slots view only. In the lives view a "
        "newborn's infos are zeros but for the seeds. In the slots view the first seven, `terminated` and `truncated` "
        "speak of the vehicle that acted in the slot, and are zeros where none did; `active`, `life` and `spawned` "
        "speak of the one that is there now. For the arrays see [there](../environments.md#arrays).",
        "## Arguments",
        table(("argument", "default", "values", ""), sections.option_rows(scene)),
        'And, of the PettingZoo views, `render_mode` (`None`, `"rgb_array"` or `"human"`), '
        "[`render_options`](../environments.md#seeing-it) and `in_process`. " + sections.reset_options(scene),
        "## Seeds",
        sections.seeds(scene),
    ]
    kept = (*prose.kept, *(KEPT_EVERYWHERE if spec.metadrive_class else ()))
    if kept:
        parts += [
            "## Kept as it was",
            "\n".join(f"* {line}" for line in kept),
            "The published numbers have it; [more of it, and what was repaired]"
            "(../environments.md#metadrive-043-what-is-repaired-and-what-is-kept).",
        ]
    parts += ["## Versions", table(("version", "since", ""), VERSIONS)]
    return "\n\n".join(parts) + "\n"
