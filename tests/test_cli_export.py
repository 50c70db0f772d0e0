"""The command export: diffusers and the post's U-Net read what it writes, offline, and compute the same."""

import json
import sys

import pytest
import torch
from command_line import made, run, told

from ddpm_lesson.cli.export import of_class
from ddpm_lesson.experiments.pretrained import load_weights
from ddpm_lesson.experiments.sampling import Sampling
from ddpm_lesson.interop import load_pytorch_ddpm
from ddpm_lesson.networks.unet import UNet


def exported(weights, out, *options):
    result = run("export", weights, "--out", out, *options, "--quiet")
    assert result.status == 0 and result.err == "", result.err
    return result.out


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A network without classes, far enough from its start that its output is not nothing."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    return made(folder, "--data", "digits", "--attn", "0", "--steps", 3, "--lr", 0.05, "--warmup", 0, "--T", 20)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes") / "run"
    return made(folder, "--preset", "digits", "--steps", 3, "--lr", 0.05, "--warmup", 0, "--T", 20)


def pipeline(folder):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    return diffusers.DDPMPipeline.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False)


def test_a_pipeline_draws_what_the_network_draws(plain, tmp_path, no_network):
    said = exported(plain, tmp_path / "new" / "out")
    assert said.startswith(f"{tmp_path / 'new' / 'out'}: draw with diffusers.DDPMPipeline.from_pretrained(")
    assert "(num_inference_steps=20)" in said
    index = json.loads((tmp_path / "new" / "out" / "model_index.json").read_text())
    assert index["_class_name"] == "DDPMPipeline"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["out"]
    theirs, ours = pipeline(tmp_path / "new" / "out"), load_weights(plain / "weights.safetensors")
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 7, 19])
    with torch.no_grad():
        expected = ours.model(x, t)
        torch.testing.assert_close(theirs.unet(x, t).sample, expected, rtol=1e-4, atol=1e-5)
    assert expected.abs().max() > 1e-3
    assert theirs.unet.config.sample_size == 8 and theirs.scheduler.config.clip_sample

    # One stream of noise for either: x_T, then one draw per step but the last.
    theirs.set_progress_bar_config(disable=True)
    for steps in (20, 5):
        generator = torch.Generator().manual_seed(3)
        found = theirs(batch_size=2, num_inference_steps=steps, generator=generator, output_type="np").images
        chain = Sampling(steps=f"linspace{steps}", seed=3)
        drawn = ours.sample(2, chain)
        found = torch.from_numpy(found).permute(0, 3, 1, 2) * 2 - 1
        torch.testing.assert_close(found, drawn.clamp(-1, 1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("options, label", [(["--label", "7"], 7), (["--unlabelled"], 10)])
def test_one_class_is_a_network_without_labels(classes, tmp_path, options, label):
    said = exported(classes, tmp_path / "out", *options)
    assert "class_labels" not in said
    theirs, ours = pipeline(tmp_path / "out"), load_weights(classes / "weights.safetensors")
    assert theirs.unet.config.num_class_embeds is None
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 7, 19])
    with torch.no_grad():
        expected = ours.model(x, t, torch.full((3,), label))
        torch.testing.assert_close(theirs.unet(x, t).sample, expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(expected, ours.model(x, t, torch.full((3,), 3)), rtol=1e-4, atol=1e-5)
    theirs.set_progress_bar_config(disable=True)
    assert theirs(batch_size=1, num_inference_steps=2, output_type="np").images.shape == (1, 8, 8, 1)


def test_all_classes_keep_their_labels_and_it_is_said(classes, tmp_path):
    said = exported(classes, tmp_path / "out")
    assert "this does not draw by itself" in said and "draw with" not in said
    assert "it takes class_labels, 0..9, 10 for none, which DDPMPipeline does not give" in said
    theirs, ours = pipeline(tmp_path / "out"), load_weights(classes / "weights.safetensors")
    x, t, y = torch.randn(3, 1, 8, 8), torch.tensor([0, 7, 19]), torch.tensor([0, 9, 10])
    with torch.no_grad():
        found = theirs.unet(x, t, class_labels=y).sample
        torch.testing.assert_close(found, ours.model(x, t, y), rtol=1e-4, atol=1e-5)


def test_an_empty_folder_will_do_and_a_full_one_will_not(plain, tmp_path):
    (tmp_path / "out").mkdir()
    exported(plain, tmp_path / "out")
    before = sorted(path.name for path in (tmp_path / "out").rglob("*"))
    assert "holds files, and nothing is overwritten" in told("export", plain, "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == before


def test_a_state_dict_of_the_posts_network(tmp_path):
    from safetensors.torch import load_file

    run_of = made(tmp_path / "run", "--data", "digits", "--ch", 64, "--num-groups", 32, "--steps", 1)
    said = exported(run_of, tmp_path / "x.safetensors")
    assert "load_pytorch_ddpm" in said
    again = load_pytorch_ddpm(load_file(tmp_path / "x.safetensors"))
    ours = load_weights(run_of / "weights.safetensors").model
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0, 5])
    torch.testing.assert_close(again(x, t), ours(x, t), rtol=1e-4, atol=1e-7)


def test_a_class_baked_in_is_the_class():
    # In float64 nothing but the order of two sums differs.
    torch.manual_seed(0)
    unet = UNet(8, 8, [1, 2], [1], 1, 0.0, in_ch=1, num_classes=4, num_groups=4).double().eval()
    x, t = torch.randn(3, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 3, 7])
    with torch.no_grad():
        for label in range(5):
            found = of_class(unet, label)(x, t)
            torch.testing.assert_close(found, unet(x, t, torch.full((3,), label)), rtol=1e-10, atol=1e-12)


ERRORS = [
    ([], "say once what to export: ddpm_lesson export WEIGHTS --out FOLDER"),
    (["digits_ddpm", "--weights", "digits_ddpm"], "say once what to export"),
    (["digits_ddpm", "--label", "7", "--unlabelled"], "give --label or --unlabelled, not both"),
    (["digits_ddpm", "--label", "seven"], "the class must be one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, got seven"),
    (["digits_upscale"], "expected a recipe with condition none, got condition low_res"),
    (["digits_classifier"], "digits_classifier must be a PretrainedDiffusion, got a PretrainedClassifier"),
    (["imagenet"], "no weights 'imagenet' ship with the course"),
    (["digits_ddpm", "--out", "x.safetensors"], "the post's U-Net has no such options: expected its own, got num_cl"),
    (["digits_ddpm", "--out", "a.txt/x"], "cannot be written: a.txt is a file, expected a folder"),
]


@pytest.mark.parametrize("arguments, message", ERRORS, ids=lambda value: " ".join(value)[:40] or "nothing")
def test_mistakes_in_export_are_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("mine")
    line = told("export", "--quiet", *([] if "--out" in arguments else ["--out", "x"]), *arguments)
    assert line.startswith("ddpm_lesson: ") and message in line
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_network_is_told_beside_x_is_named(plain, tmp_path):
    line = told("export", plain, "--unlabelled", "--out", tmp_path / "x", "--quiet")
    assert "--unlabelled is for networks with classes: this one knows none" in line
    xprev = made(tmp_path / "xprev", "--data", "digits", "--mean-type", "xprev")
    line = told("export", xprev, "--out", tmp_path / "x", "--quiet")
    assert "diffusers knows the mean types epsilon, xstart, v, got 'xprev'" in line
    assert not (tmp_path / "x").exists()


def test_without_diffusers_it_says_what_to_install(plain, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    line = told("export", plain, "--out", tmp_path / "x", "--quiet")
    assert line == "ddpm_lesson: export to a folder needs the package diffusers: pip install diffusers\n"
