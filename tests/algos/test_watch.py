"""A film of the particles from a policy on disk to the file, and what is refused before anything is driven."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from copo_algos import policy as policy_module
from copo_algos import progress
from copo_algos.cli import main
from copo_algos.errors import UserError
from copo_algos.evaluate import Episode, drive
from copo_algos.policy import Policy, PolicyInfo, make_actor, save_policy
from copo_algos.watch import WatchConfig, _drive, _scene, watch
from copo_algos.watch import show as show_film
from copo_envs.make import make_simulator
from copo_envs.outcomes import Outcome
from copo_envs.scenes import SCENES, SceneError, map_seed, scene_options
from copo_envs.window import Window


def tiny_policy(uses_lcf: bool = True, scene: str = "particles", num_agents: int = 6, start_seed: int = 5000) -> Policy:
    info = PolicyInfo(
        scene=scene,
        algorithm="copo" if uses_lcf else "ippo",
        obs_size=SCENES[scene].obs_size,
        num_agents=num_agents,
        uses_lcf=uses_lcf,
        lcf_mean=0.2,
        lcf_std=0.5,
        start_seed=start_seed,
    )
    return Policy(make_actor(info, torch.Generator().manual_seed(0)), info)


def saved(folder: Path, uses_lcf: bool = True) -> Path:
    folder.mkdir(parents=True)
    save_policy(tiny_policy(uses_lcf), folder)
    return folder


@pytest.fixture
def config(tmp_path: Path) -> WatchConfig:
    return WatchConfig(run=saved(tmp_path / "policy"), steps=12, size=200, output=tmp_path / "out" / "film.gif")


def frames(path: Path) -> int:
    with Image.open(path) as film:
        return getattr(film, "n_frames", 1)


def test_a_film_has_a_frame_per_step_and_says_where_it_is(
    config: WatchConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    path = watch(config)
    assert path == config.output and frames(path) == 12
    assert "film.gif: particles · copo, no life ended yet" in capsys.readouterr().out
    assert frames(watch(replace(config, stride=5))) == 3


def test_a_film_without_a_terminal_says_how_far_it_is(
    config: WatchConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY", 0.0)
    watch(replace(config, stride=5, warmup=2))
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines == [f"{done}/14 env steps driven | 0 min left" for done in range(1, 15)] + [
        f"{done}/3 pictures drawn | 0 min left" for done in range(1, 4)
    ]
    assert "film.gif" in last


def test_the_same_seed_makes_the_same_film(config: WatchConfig) -> None:
    first = watch(config).read_bytes()
    assert watch(config).read_bytes() == first
    assert watch(replace(config, first_seed=1)).read_bytes() != first
    assert watch(replace(config, deterministic=True)).read_bytes() != first


def test_the_film_begins_after_the_warmup(config: WatchConfig) -> None:
    def picture(path: Path, index: int) -> np.ndarray:
        with Image.open(path) as film:
            film.seek(index)
            return np.asarray(film.convert("RGB")).astype(int)

    late = watch(replace(config, warmup=8, steps=4))
    assert frames(late) == 4
    end_of_late = picture(late, 3)
    whole = watch(config)
    # Both end at step 12 and differ in their palettes only.
    assert np.abs(end_of_late - picture(whole, 11)).max() < 60
    assert np.abs(end_of_late - picture(whole, 3)).max() > 100


def test_by_default_the_film_goes_to_videos(
    config: WatchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert watch(replace(config, output=None, steps=2)) == Path("videos/particles-copo.gif")
    assert (tmp_path / "videos" / "particles-copo.gif").exists()


@pytest.mark.parametrize("colour_by", ["outcome", "speed", "lcf"])
def test_every_colouring_makes_a_film(config: WatchConfig, colour_by: str) -> None:
    assert frames(watch(replace(config, colour_by=colour_by, steps=3))) == 3


def test_driving_counts_every_life_once_and_goes_on_after_an_episode() -> None:
    policy = tiny_policy()
    simulator = make_simulator(scene_options("particles", num_agents=6, horizon=100, delay_done=5), in_process=True)
    simulator.reset(3)
    endings: dict[tuple[int, int], int] = {}
    shots = list(_drive(simulator, policy, WatchConfig(first_seed=3, steps=500), endings, "particles"))
    assert len(shots) == 500
    episodes = max(shot.episode for shot in shots) + 1
    assert episodes >= 2
    counted = sum(int((shot.batch.outcome > 0).sum()) for shot in shots)
    assert counted == len(endings) > 12
    assert set(endings.values()) <= {1, 2, 3, 4}
    # Episode 1 has seed 3 + 1; in its first step vehicles at rest move less than a metre.
    first = next(shot for shot in shots if shot.episode == 1)
    assert np.abs(first.batch.position - simulator.reset(4).position).max() < 1.0


def test_a_life_keeps_the_coordination_factor_it_was_born_with() -> None:
    policy = tiny_policy()
    simulator = make_simulator(scene_options("particles", num_agents=6, delay_done=5), in_process=True)
    simulator.reset(0)
    seen: dict[int, float] = {}
    for shot in _drive(simulator, policy, WatchConfig(steps=500), {}, "particles"):
        for slot in np.flatnonzero(shot.batch.active):
            life = int(shot.batch.life[slot])
            assert seen.setdefault(life, float(shot.lcf[slot])) == shot.lcf[slot]
    assert len(seen) > 12
    assert len(set(seen.values())) > 10, "drawn anew for each life"


def test_one_coordination_factor_for_everybody() -> None:
    simulator = make_simulator(scene_options("particles", num_agents=6), in_process=True)
    simulator.reset(0)
    for shot in _drive(simulator, tiny_policy(), WatchConfig(steps=20, lcf=0.25), {}, "particles"):
        np.testing.assert_array_equal(shot.lcf[shot.batch.active], np.float32(0.25))


def test_the_scene_is_as_in_training_unless_told_otherwise() -> None:
    policy = tiny_policy()
    assert _scene(WatchConfig(), policy).num_agents == 6
    assert _scene(WatchConfig(num_agents=3), policy).num_agents == 3
    elsewhere = tiny_policy(scene="intersection", num_agents=7)
    assert _scene(WatchConfig(scene="roundabout"), elsewhere).num_agents == SCENES["roundabout"].num_agents
    with pytest.raises(UserError, match="particles sees 32 numbers and intersection shows 91"):
        _scene(WatchConfig(scene="intersection"), policy)
    with pytest.raises(SceneError, match="num_agents=99 does not fit particles"):
        _scene(WatchConfig(num_agents=99), policy)


def test_rule_based_traffic_is_as_in_training_and_in_the_film(config: WatchConfig) -> None:
    policy = tiny_policy(scene="intersection", num_agents=7)
    policy.info = replace(policy.info, rule_based=4)
    assert _scene(WatchConfig(), policy).rule_based == 4
    assert _scene(WatchConfig(rule_based=0), policy).rule_based == 0
    with pytest.raises(UserError, match="rule_based=4 vehicles are not in the 3D view; use rule_based=0"):
        _scene(WatchConfig(view_3d=True), policy)
    driven = WatchConfig(scene="particles", algorithm="rule_based", num_agents=2, steps=3, output=config.output)
    mixed = Image.open(watch(replace(driven, rule_based=6))).convert("RGB").tobytes()
    assert mixed != Image.open(watch(driven)).convert("RGB").tobytes()


def test_a_policy_drives_on_the_map_that_it_was_trained_on() -> None:
    policy = tiny_policy(scene="pg_map", num_agents=15, start_seed=8000)
    assert _scene(WatchConfig(), policy).start_seed == 8000
    assert _scene(WatchConfig(start_seed=9000), policy).start_seed == 9000
    assert map_seed(_scene(WatchConfig(start_seed=1_000_003), policy), 5) == 1_000_003, "a held-out one, by its name"
    assert map_seed(_scene(WatchConfig(maps="heldout"), policy), 5) == 1_000_005
    with pytest.raises(UserError, match="start_seed=9000 is one map, and maps=heldout another one in every episode"):
        _scene(WatchConfig(maps="heldout", start_seed=9000), policy)


def test_roads_and_horizon_are_those_asked_for() -> None:
    policy = tiny_policy(scene="bottleneck", num_agents=7)
    policy.info = replace(policy.info, geometry="metadrive")
    made = [_scene(WatchConfig(geometry=geometry, horizon=50), policy) for geometry in (None, "published", "metadrive")]
    assert [options.geometry for options in made] == ["metadrive", "published", "metadrive"]
    assert [options.horizon for options in made] == [50] * 3 and _scene(WatchConfig(), policy).horizon == 1000


def test_a_film_shows_the_episodes_of_an_evaluation() -> None:
    """Also the second one in the film: an episode depends on its seed alone."""
    policy, options = tiny_policy(), scene_options("particles", num_agents=6, horizon=60)
    lives = drive(policy, [Episode(k, 40 + k, options) for k in range(2)], workers=1)
    simulator = make_simulator(options, in_process=True)
    simulator.reset(40)
    endings: dict[tuple[int, int], int] = {}
    for shot in _drive(simulator, policy, WatchConfig(first_seed=40, steps=500), endings, "particles"):
        if shot.episode == 2:
            break
    outcomes = [Outcome[name.upper()] for name in lives["outcome"]]
    evaluated = dict(zip(zip(lives["episode"], lives["life"], strict=True), outcomes, strict=True))
    assert {key: outcome for key, outcome in endings.items() if key[0] < 2} == evaluated
    assert {episode for episode, _ in evaluated} == {0, 1}


def test_without_an_algorithm_whichever_policy_comes_with_the_package_drives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(policy_module.resources, "files", lambda package: tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, uses_lcf in (("ippo", False), ("copo", True)):
        saved(tmp_path / "policies" / "particles" / name, uses_lcf)
        assert main(["watch", "--scene", "particles", "--steps", "2", "--size", "200"]) == 0
        assert capsys.readouterr().out.startswith(f"videos/particles-{name}.gif: ")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 0}, "steps=0 is too small; use 1 or more"),
        ({"warmup": -1}, "warmup=-1 is too small"),
        ({"stride": 0}, "stride=0 is too small"),
        ({"first_seed": -1}, "first_seed=-1 is too small"),
        ({"lcf": 45.0}, r"lcf=45.0 is not in \[-1, 1\]"),
        ({"fps": 0}, "fps=0 is not possible"),
        ({"size": 10}, "size=10 pixels is too small"),
        ({"size": 100_000}, "size=100000 pixels is too large to draw; use 4096 or less"),
        ({"output": Path("film.avi")}, r"has to end in \.gif or \.mp4"),
        ({"colour_by": "mood"}, "unknown colour_by 'mood'; choose one of vehicle, outcome, speed, lcf"),
        ({"follow": "car"}, "unknown vehicle to follow 'car'; use auto, agent_<number> or slot_<number>"),
        ({"follow": "slot_6"}, "there is no slot_6 to follow; choose one of slot_0 to slot_5"),
        ({"follow": "agent_99"}, "agent_99 does not drive in this film; choose one of agent_0 to agent_5"),
        ({"follow": "auto", "span": -1.0}, "span=-1.0 metres is no view; use 5 or more"),
        ({"span": 60.0}, "span=60.0 says how much to see around a vehicle; give follow too"),
        ({"neighbourhood": -40.0}, "neighbourhood=-40.0 is no radius; use a number of metres above 0"),
        ({"camera": "top"}, "camera=top is one of the 3D view; give 3d too"),
        ({"window": True}, "window shows it instead of writing .*; leave one out"),
        ({"window": True, "output": None, "colour_by": "outcome"}, "which nobody knows while it is shown"),
        ({"view_3d": True, "window": True, "output": None}, "window belongs to the view from above"),
        ({"view_3d": True, "neighbourhood": 40.0}, "neighbourhood=40.0 belongs to the view from above"),
        ({"view_3d": True, "colour_by": "speed"}, "colour_by=speed belongs to the view from above"),
        ({"view_3d": True, "follow": "auto", "span": 80.0}, "span=80.0 is what camera=top sees"),
        ({"algorithm": "ippo"}, "was given; leave one out"),
        ({"run": Path("nowhere")}, "no policy in nowhere"),
        ({"run": None, "scene": "particles", "algorithm": "sarsa"}, "'sarsa'"),
        ({"run": None, "scene": "particles"}, "no policy for scene 'particles' and algorithm 'copo' comes with"),
        ({"maps": "heldout"}, "particles has one map; only pg_map has held-out ones: leave out --maps"),
        ({"start_seed": 9000}, "start_seed=9000, but particles has one map; leave out --start-seed"),
        ({"geometry": "moon"}, "unknown geometry 'moon'; choose one of published, metadrive"),
        ({"horizon": 0}, "horizon=0 is too small; use 1 or more"),
    ],
)
def test_what_cannot_be_filmed_is_refused_before_driving(config: WatchConfig, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        watch(replace(config, **changes))
    assert config.output is not None and not config.output.exists()


def test_a_file_in_an_unwritable_place_and_a_missing_encoder_are_refused(
    config: WatchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*film\.gif: .*; choose another place"):
        watch(replace(config, output=tmp_path / "file" / "film.gif"))
    monkeypatch.setattr("copo_envs.video.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'an MP4 needs imageio: pip install "\.\[train\]" in the checkout'):
        watch(replace(config, output=tmp_path / "film.mp4"))


def test_a_film_that_follows_is_square_and_the_word_after_follow_may_be_left_out(
    config: WatchConfig, tmp_path: Path
) -> None:
    command = ["watch", str(config.run), "--steps", "4", "--size", "240", "--output", str(tmp_path / "film.gif")]
    for follow in (["--follow"], ["--follow", "--span", "20"], ["--follow", "agent_2"], ["--follow=slot_3"]):
        assert main([*command, *follow, "--neighbourhood", "10"]) == 0
        with Image.open(tmp_path / "film.gif") as film:
            assert film.size == (240, 240) and getattr(film, "n_frames", 1) == 4


def test_a_window_shows_every_picture_and_writes_nothing(
    config: WatchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.chdir(tmp_path)
    shown: list[np.ndarray] = []

    def show(self: Window, picture: np.ndarray) -> bool:
        shown.append(picture)
        return len(shown) < 3  # then the user closes it

    monkeypatch.setattr(Window, "show", show)
    show_film(replace(config, window=True, output=None))
    assert len(shown) == 3 and (shown[0] != shown[1]).any()
    assert "particles · copo, no life ended yet" in capsys.readouterr().out
    assert {item.name for item in tmp_path.iterdir()} == {"policy"}


def test_a_window_without_a_display_is_one_sentence(config: WatchConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="a window needs a display, and DISPLAY is not set; set it to one"):
        show_film(replace(config, window=True, output=None))


def test_3d_without_its_assets_is_one_sentence_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("copo_envs.view_3d.assets_folder", lambda: tmp_path / "assets")
    assert main(["watch", "--scene", "intersection", "--3d"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("copo watch: the 3D view needs MetaDrive's assets")
    assert line.endswith("fetch them with: python -m metadrive.pull_asset")


@pytest.mark.parametrize("changes", [{"lcf": 0.5}, {"colour_by": "lcf"}])
def test_a_policy_without_coordination_factor_takes_and_shows_none(tmp_path: Path, changes: dict) -> None:
    run = saved(tmp_path / "policy", uses_lcf=False)
    with pytest.raises(UserError, match="this ippo policy has no coordination factor"):
        watch(WatchConfig(run=run, output=tmp_path / "film.gif", **changes))
    assert frames(watch(WatchConfig(run=run, steps=2, size=200, output=tmp_path / "film.gif"))) == 2
