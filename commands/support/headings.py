"""Under which heading --help shows a flag: one table for all commands, since a flag means the same in each of them."""

from __future__ import annotations

from collections.abc import Collection

# A flag named under several headings stands under the first that a command has by another flag.  An option that holds
# an entry is its own heading, in the place of its name here.
HEADINGS: dict[str, str] = {
    "Inputs": "arch checkpoint entry teacher student fakes filter predictor outputs init_from what name",
    "Data": "data fold resolution real_per_class data_seed download real",
    "Labels": "labels class_names label_map label_range label_unit label_input label_embedding label_network output "
    "final_relu",
    "Images": "channels image_size image_channels normalise output_range noise_mode truncation truncation_cutoff "
    "standing_batches standing_batch_size network_width augmentations licence",
    "Fakes": "train_on mixing real_share rho nfake_per_class nfake_per_label nfake keep relabel scope cut weights "
    "accept store_latents take_available extend",
    "Search": "rhos seeds race risk",
    "Comparison": "methods sets seeds parts learning_rates",
    "Generator": "generator",
    "Network": "network networks",
    "Method": "method label_smoothing",
    "Beside a method on features": "beside",
    "Discriminator": "discriminator discriminator_steps discriminator_every diffaugment r1_weight r1_every",
    "White box": "white_box white_box_losses white_box_taps kernel_rows kernel_centred resize_maps",
    "Loss weights": "pixel_weight pixel_floor pixel_decay_until feature_weight adversarial_weight "
    "adversarial_unpaired_weight adversarial_from adversarial_every discriminator_pair_weight "
    "discriminator_unpaired_weight",
    "Extractor": "extractor_steps extractor_batch extractor_lr extractor_weight_decay extractor_width feature_dim "
    "held_out",
    "Density ratio": "ratio neighbours ratio_steps ratio_batch mlp width dropout agreement penalty fakes_per_real "
    "fakes_at_least lr betas weight_decay seed",
    "Schedule": "steps epochs batch_size lr lr_discriminator momentum nesterov beta1 beta1_discriminator beta2 betas "
    "weight_decay schedule warmup_fraction lr_decay_from milestones milestone_factor ema_half_life_images "
    "standing_batches augmentation vicinity vicinity_gaps selection precision compile seed",
    "Sampling": "block_size unit_candidates group_size pilot_candidates ceiling_quantile ceiling_neighbours "
    "running_max max_candidates_per_label dtype tf32 threads seed",
    "Sizes": "folds teacher_steps classifier_steps student_steps rhos nfake_per_class",
    "Measuring": "test views pooled nearest plots images_per_class inception judge_steps judge_seed count small memory "
    "holdout_fraction holdout_max",
    "Service": "host port max_batch token_file",
    "Output and progress": "to out workspace config log_every_steps validate_every_steps checkpoint_every_steps "
    "checkpoint_every_seconds json dry_run",
    "Where it runs": "device data_on_device workers engine ray_address seed help",
}
OTHER = "More"


def arranged(flags: Collection[str]) -> dict[str, list[str]]:
    """Heading -> the flags of a command under it, both in the order of the table."""
    places: dict[str, list[str]] = {}
    for heading, names in HEADINGS.items():
        for name in names.split():
            places.setdefault(name, []).append(heading)
    sure = {places[name][0] for name in flags if len(places.get(name, [])) == 1}
    under = {
        name: next((heading for heading in places.get(name, []) if heading in sure), places.get(name, [OTHER])[-1])
        for name in flags
    }
    groups = {
        heading: [name for name in names.split() if under.get(name) == heading] for heading, names in HEADINGS.items()
    }
    groups[OTHER] = [name for name in flags if under[name] == OTHER]
    return {heading: names for heading, names in groups.items() if names}
