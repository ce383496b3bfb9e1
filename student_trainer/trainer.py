"""Training of a light student generator from a teacher's stored images and latents.

The student copies (z, y) -> image: it is compared with the stored teacher image of the same latents and label in the
pixels and in the features of a discriminator that is trained along with it.  The teacher itself is not needed.
Killed at any moment and called again, the training ends with the same weights on a CPU.  Several ranks share each
batch; the main one holds the EMA and writes.  See Chang and Lu (2020).

Pairs that a filter accepted are a biased sample of z, while a finished student is given all of z.  On the digits,
keeping the best 60 % of each class by label error raised the student's Frechet distance from 10.3 to 14.1 (the kept
teacher images themselves: from 7.6 to 12.3) and its label accuracy from 99.6 to 99.9 %: less variety, more typical.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from image_data.labels import label_space_from_json
from image_data.sources import ImageSource
from interfaces import LabelSpace, Teacher, TeacherCard
from interfaces.method import Views
from layers.batch_statistics import share_statistics
from layers.features import FeatureReader
from runtime.errors import UserError
from runtime.precision import passes
from runtime.ranks import ALONE, Ranks
from runtime.registry import Choice
from runtime.seeds import seed_step
from runtime.settings import as_json
from student_trainer import losses
from student_trainer.adversary import AdversarialBatch, Adversary, Term
from student_trainer.building import build_discriminator, build_student, network_arguments
from student_trainer.data import Batch, StudentData
from student_trainer.methods import TeacherViews, build_student_method, method_batch
from student_trainer.networks import GENERATORS
from student_trainer.settings import StudentSettings
from training.distilling import Distillation
from training.ema import ExponentialMovingAverage, accumulate_standing_statistics
from training.generator_folder import FOLDER, NetworkGenerator, load_weights, read_card, save_generator
from training.loop import Cadence, TrainingLoop, finish_training
from training.model_folder import CARD_FILE
from training.schedules import between, linear_decay, ramp, set_learning_rate
from training.state import NamedState

EVALUATION_BATCH = 250


def train_student(
    pairs: ImageSource,
    real: ImageSource | None,
    label_space: LabelSpace,
    settings: StudentSettings,
    out: Path,
    device: torch.device,
    methods: Sequence[Choice] = (),
    teacher: Teacher | None = None,
    allowed_augmentations: Sequence[str] = (),
    trained_on: dict[str, Any] | None = None,
    ranks: Ranks = ALONE,
) -> Path:
    """Train a student and write it to `out` as a generator's folder; returns `out`.

    pairs: uint8 N x C x H x W teacher images with labels (user's units) and float32 N x z latents.  real: the images
    of the unpaired adversarial loss, or None: then teacher images stand in.  A finished folder is returned at once, an
    unfinished one is continued.  methods: added to the student's loss; those on features look into the local `teacher`.
    `trained_on` goes into the card, its entry "licence" as the student's licence.
    UserError: pairs without latents, labels outside the space, images that no network here can make, divergence.
    """
    out = Path(out)
    if FOLDER.finished(out):
        return out
    data = StudentData(pairs, real, label_space, settings, device, allowed_augmentations, ranks)
    ema = _optimise(data, settings, methods, teacher, out)
    if ranks.main:
        # Averaged weights have never been run: they get batch-norm statistics of their own.
        accumulate_standing_statistics(ema, data.standing_inputs, settings.standing_batches)
        save_generator(out, _card(data, settings, ema.eval(), trained_on or {}), ema)
    finish_training(out, ranks)
    return out


def _optimise(
    data: StudentData, settings: StudentSettings, methods: Sequence[Choice], teacher: Teacher | None, out: Path
) -> nn.Module:
    """The loop.  Returns the EMA of the student.

    loss = w_pixel |S - T| + w_feature sum_i w_i |D_i(S) - D_i(T)| - sum_j w_j D(S) + the method's loss
    (Chang and Lu 2020, section 3); the method's alone in its stages before the last, and where it is the whole loss.
    """
    ranks, device = data.ranks, data.device
    seed_step(settings.seed, "student-init", 0)
    student = build_student(settings, data.label_space, data.image_shape, data.latent_dim)
    student = student.to(device).to(memory_format=torch.channels_last)  # a third faster on a CPU
    discriminator = build_discriminator(settings, data.label_space, data.image_shape)
    discriminator = discriminator.to(device).to(memory_format=torch.channels_last)
    adversary = Adversary(discriminator, data, settings)
    ema = ExponentialMovingAverage(student, settings.ema_half_life_images)
    distillation = Distillation(build_student_method(methods, data, student, teacher), settings.steps, ranks, device)
    student = share_statistics(student, ranks, device)  # after the EMA's copy, which one rank runs alone
    method = distillation.method
    reader, teacher_views = FeatureReader(student, method.student_features, "student"), TeacherViews(teacher, method)
    trained = [*student.parameters(), *method.parameters()]
    optimizer = torch.optim.Adam(trained, lr=settings.lr, betas=(settings.beta1, settings.beta2))
    state = NamedState(
        student=student,
        discriminator=discriminator,
        method=method,
        ema=ema,
        optimizer=optimizer,
        optimizer_d=adversary.optimizer,
    )
    cadence = Cadence(settings.log_every_steps, settings.checkpoint_every_steps, settings.checkpoint_every_seconds)
    loop = TrainingLoop("train-student", out, distillation.steps, state, cadence, ranks)
    for step in loop:
        seed_step(settings.seed, ranks.purpose("student-step"), step)
        at = distillation.at(step)
        if at.step == 0:
            optimizer.state.clear()  # each stage has moments of its own, of what it trains
        pair = data.pair_batch(step)
        with passes(settings.precision, device):
            views = reader(pair.latents, pair.encoded) if at.stage.trains_student else Views()
            scalars = distillation(views, teacher_views(pair), method_batch(pair, data, at))
        terms: dict[str, Term] = {"method": (1.0, scalars.pop("loss"))} if scalars else {}
        if at.last and not method.whole_loss:
            own, figures = _own_terms(at.step, data, settings, student, adversary, pair, views.output)
            terms, scalars = own | terms, figures | scalars
        loss = torch.stack([weight * value for weight, value in terms.values() if weight > 0]).sum()
        set_learning_rate(optimizer, at.stage.lr_factor * learning_rate(settings, at.step, at.steps))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        ranks.average_gradients(trained)
        optimizer.step()
        discriminator.requires_grad_(True)
        if ranks.main and at.stage.trains_student:
            ema.update(student, settings.batch_size)
        loop.log(step, {"loss": loss, **scalars, **{name: value for name, (_, value) in terms.items()}})
    return ema.module


def _own_terms(
    step: int,
    data: StudentData,
    settings: StudentSettings,
    student: nn.Module,
    adversary: Adversary,
    pair: Batch,
    generated: torch.Tensor,
) -> tuple[dict[str, Term], dict[str, torch.Tensor]]:
    """The student's terms on pixels and, where it is D's turn, from D; and D's figures."""
    terms = {"pixel": (pixel_weight(settings, step), losses.pixel_l1(generated, pair.images))}
    if step < settings.adversarial_from * settings.steps or (step + 1) % settings.discriminator_every:
        return terms, {}
    figures, others = _adversarial_part(step, data, settings, student, adversary, pair, generated)
    return terms | others, figures


def _adversarial_part(
    step: int,
    data: StudentData,
    settings: StudentSettings,
    student: nn.Module,
    adversary: Adversary,
    pair: Batch,
    generated: torch.Tensor,
) -> tuple[dict[str, torch.Tensor], dict[str, Term]]:
    """D's step, then the student's terms from it.  Returns D's figures and these terms."""
    turn = (step + 1) // settings.discriminator_every
    for_student = turn % settings.adversarial_every == 0
    weights = settings.discriminator_pair_weight, settings.adversarial_weight
    batches = {"pair": AdversarialBatch(pair, generated, *weights)}
    if settings.discriminator_unpaired_weight > 0:
        true = data.unpaired_batch(step)
        weights = settings.discriminator_unpaired_weight, settings.adversarial_unpaired_weight
        with torch.set_grad_enabled(for_student and weights[1] > 0), passes(settings.precision, data.device):
            unpaired = student(true.latents, true.encoded).float()
        batches["unpaired"] = AdversarialBatch(true, unpaired, *weights)
    figures = adversary.train(step, turn, batches)
    adversary.discriminator.requires_grad_(False)  # the student's terms pass through D and leave no gradient in it
    terms = adversary.feature_term(pair, generated)
    if for_student:
        terms |= adversary.adversarial_terms(step, batches)
    return figures, terms


def learning_rate(settings: StudentSettings, step: int, steps: int | None = None) -> float:
    """Linear warm-up, constant, then linear to 0 at the end of `steps`."""
    done = (step + 1) / (steps or settings.steps)
    return settings.lr * min(ramp(done, settings.warmup_fraction), linear_decay(done, settings.lr_decay_from, 1.0))


def pixel_weight(settings: StudentSettings, step: int) -> float:
    """Linear from `pixel_weight` to `pixel_floor`, which is reached at `pixel_decay_until`.

    It goes with the share of the steps that are done; published: 20 of 30 epochs, so 2/3.  One original lets it fall
    per iteration and so has no pixel loss after 20 of them.
    """
    return between(settings.pixel_weight, settings.pixel_floor, ramp(step / settings.steps, settings.pixel_decay_until))


def check_student(
    pairs: ImageSource,
    real: ImageSource | None,
    label_space: LabelSpace,
    settings: StudentSettings,
    allowed_augmentations: Sequence[str] = (),
    methods: Sequence[Choice] = (),
    teacher: Teacher | None = None,
) -> nn.Module:
    """The untrained student; raises the UserError with which `train_student` would refuse all this."""
    device = getattr(teacher, "device", torch.device("cpu"))
    data = StudentData(pairs, real, label_space, settings, device, allowed_augmentations)
    student = build_student(settings, label_space, data.image_shape, data.latent_dim).to(device)
    build_student_method(methods, data, student, teacher)
    return student


@torch.inference_mode(False)  # its weights are ordinary tensors, wherever it is loaded
def load_student(folder: Path, device: torch.device) -> NetworkGenerator:
    """The student generator of a finished folder, as a Teacher; UserError where it is none or is damaged."""
    card = read_card(Path(folder))
    build = GENERATORS.get(card.architecture)
    try:
        network = build(**card.arguments)
    except TypeError as error:
        raise UserError(
            f"{Path(folder) / CARD_FILE} does not fit the network {card.architecture} ({error})."
        ) from error
    load_weights(Path(folder), card, network)
    return NetworkGenerator(card, network, label_space_from_json(card.label_space), device)


def paired_quality(data: StudentData, student: nn.Module) -> dict[str, Any]:
    """L1 (of images in [-1, 1]) and PSNR (dB, mean over images) on the held-out pairs; {} where there are none."""
    rows = data.held_out
    if not len(rows):
        return {}
    distance, ratio = 0.0, 0.0
    with torch.inference_mode():
        for start in range(0, len(rows), EVALUATION_BATCH):
            batch = data.read_pairs(rows[start : start + EVALUATION_BATCH])
            images = student(batch.latents, batch.encoded)
            distance += float(losses.pixel_l1(images, batch.images)) * len(images)
            ratio += float(losses.peak_signal_to_noise(images, batch.images).sum())
    return {"paired_l1": distance / len(rows), "paired_psnr_db": ratio / len(rows), "paired_images": len(rows)}


def _card(data: StudentData, settings: StudentSettings, student: nn.Module, trained_on: dict[str, Any]) -> TeacherCard:
    return TeacherCard(
        architecture=settings.generator.name,
        arguments=network_arguments(settings, data.label_space, data.image_shape, data.latent_dim),
        resolution_px=data.image_shape[1],
        channels=data.image_shape[0],
        label_space=data.label_space.to_json(),
        latent={"distribution": "normal", "dimension": data.latent_dim},
        truncation={} if settings.truncation is None else {"std": settings.truncation},
        source_digest="",
        licence=str(trained_on.get("licence", "unknown")),
        allowed_augmentations=list(data.allowed_augmentations),
        measured_quality=paired_quality(data, student),
        trained_on={
            **trained_on,
            "pairs": len(data.kept),
            "real_images": 0 if data.real is None else len(data.real),
            "images_seen": settings.steps * settings.batch_size,
            "settings": as_json(settings),
        },
    )
