"""The sub-commands: name -> (module, one line of help).  Read by cli.py before anything heavy is imported."""

from __future__ import annotations

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "The whole path on real digits; ends with a table and an HTML report."),
    "train-teacher": ("train_teacher", "Train a teacher GAN on real images."),
    "import-teacher": ("import_teacher", "Make a teacher folder from a foreign checkpoint, program, images or URL."),
    "serve-teacher": ("serve_teacher", "Let others sample a teacher over HTTP, without its weights."),
    "train-classifier": ("train_classifier", "Train a predictor on real images, without distillation."),
    "import-predictor": ("import_predictor", "Make a predictor from a classifier of another program."),
    "fit-filter": ("fit_filter", "Fit the feature extractor and the conditional density ratio."),
    "sample": ("sample", "Sample a teacher through the filter into an HDF5 dataset of fakes."),
    "score": ("score", "Add a predictor's outputs and errors to fakes, or store outputs to distil from."),
    "verify": ("verify", "Check every byte of a dataset of fakes."),
    "repair": ("repair", "Make the damaged units of a dataset of fakes again."),
    "inspect": ("inspect_fakes", "Describe a dataset of fakes: acceptance, ratios, errors, quality, warnings."),
    "export-h5": ("export_h5", "Write a dataset of fakes as the one file that cGAN-KD trainers read."),
    "export-fakes": ("export_fakes", "Write a dataset of fakes as an image folder, WebDataset or Parquet files."),
    "train-student": ("train_student", "Distil a light student generator from a dataset of fakes."),
    "distill": ("distill", "Train a light classifier or regressor from real and fake images."),
    "search-rho": ("search_rho", "Search the filtering quantile rho on validation data."),
    "compare": ("compare", "Compare methods on real images, on real and fakes, and on fakes; over networks and seeds."),
    "evaluate": ("evaluate", "Measure a generator, a dataset of fakes or a classifier."),
    "export": ("export", "Write a student generator as a torch.export program."),
    "benchmark": ("benchmark", "Costs of networks; speed of sampling, reading and verify, against what bounds them."),
    "report": ("report", "Write the HTML report of a workspace."),
    "list": ("list_entries", "List the networks, losses and datasets that the options accept."),
    "status": ("status", "Show what a workspace holds."),
}
