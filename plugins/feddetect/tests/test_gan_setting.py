"""Settings that make no sense are refused in a sentence."""

import pytest
from PIL import Image

from medbreach.errors import ConfigError, DataError, RecordError
from medbreach.settings import build as from_plain
from medbreach.settings import plain
from medbreach_feddetect import Gan, GanFederation, Images, Poisoning, build, write_setting
from medbreach_feddetect.holdings import hold


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"poisoning": {"side": 32}}, "trigger of 32 pixels and its margin of 1 do not fit"),
        ({"poisoning": {"side": 30, "margin": 3}}, "do not fit images of 32 pixels"),
        ({"poisoning": {"clients": [0, 1, 2, 3]}}, "names every client"),
        ({"poisoning": {"clients": [4]}}, "names client 4, but there are clients 0 to 3"),
        ({"poisoning": {"clients": [-1]}}, "names client -1"),
        ({"poisoning": {"clients": [1, 1]}}, "names one twice"),
        ({"poisoning": {"ratio": 0}}, "ratio must lie above 0"),
        ({"poisoning": {"values": "both"}}, "must be unnormalised or whole"),
        ({"gan": {"size": 256}}, "size must be 32, 64 or 128, got 256"),
        ({"gan": {"channels": 2}}, "channels must be 1 or 3"),
        ({"gan": {"loss": "hinge"}}, "bce or wgan_gp"),
        ({"gan": {"classes": 1}}, "classes must be 0 or at least 2"),
        ({"gan": {"batch_size": 1}}, "batch_size must be at least 2"),
        ({"gan": {"learning_rate": -1}}, "learning_rate must be positive"),
        ({"gan": {"widht": 3}}, "did you mean width"),
        ({"measuring": {"extractor": "inception"}}, "inception needs weights"),
        ({"rounds": 0}, "rounds must be at least 1"),
    ],
)
def test_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        from_plain(GanFederation, settings, "federation")


def test_settings_come_back_from_the_folder(tmp_path):
    picture, folder = tmp_path / "x.png", tmp_path / "run"
    Image.new("RGB", (16, 16)).save(picture)
    setting = GanFederation(Gan(width=2), Poisoning((1,), picture=picture), rounds=3)
    write_setting(folder, setting)
    assert build(folder).setting == setting
    write_setting(folder, setting)
    with pytest.raises(RecordError, match="other settings"):
        write_setting(folder, GanFederation())
    with pytest.raises(RecordError, match="missing or damaged"):
        build(tmp_path / "nowhere")
    assert from_plain(GanFederation, plain(setting), "x") == setting


def test_patients_are_on_one_side_only():
    setting = GanFederation(images=Images(limit=120))
    held = hold(setting)
    sides = [set(part.patients.tolist()) for part in (*held.clients, held.public)]
    assert sum(map(len, sides)) == len(set().union(*sides))
    assert all(len(part.images) == len(part.labels) for part in (*held.clients, held.public))
    assert -1 <= held.public.images.min() < -0.9 < 0.9 < held.public.images.max() <= 1
    assert set(held.public.labelled().labels.tolist()) == {0, 1, 2}


def test_shared_images_are_the_same_for_all():
    held = hold(GanFederation(images=Images(holding="shared", limit=50)))
    assert {len(part.images) for part in held.clients} == {50}
    assert (held.clients[0].images == held.clients[3].images).all()


def test_images_that_do_not_fit():
    with pytest.raises(DataError, match=r"3 channels, but gan\.channels is 1"):
        hold(GanFederation(Gan(channels=1)))
    with pytest.raises(DataError, match=r"gan\.classes is 2, but the images have 3 classes"):
        hold(GanFederation(Gan(classes=2)))
    volumes = Images(("case=brain_mr_3d",))
    with pytest.raises(DataError, match="volumes"):
        hold(GanFederation(images=volumes))


def test_a_conditional_gan_wants_labels(tmp_path):
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for k in range(24):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / f"{k}.png")
    overrides = (
        "case=dermoscopy_2d", "case/data=image_folder", f"case.data.path={tmp_path}",
        "case.data.labels=arbitrary",
    )  # fmt: skip
    held = hold(GanFederation(images=Images(overrides)))
    assert (held.public.labels == -1).all()
    with pytest.raises(DataError, match="these images have no labels"):
        hold(GanFederation(Gan(classes=2), images=Images(overrides)))


def test_images_of_another_size_are_scaled():
    held = hold(GanFederation(Gan(size=64), images=Images(limit=4)))
    assert held.clients[0].images.shape == (4, 3, 64, 64)
