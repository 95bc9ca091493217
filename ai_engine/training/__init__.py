"""Training of nnU-Net models on a plain computer: image/mask pairs in, a model package out.

nnU-Net's plan, preprocessing, patch loader and loss; our calling of them: bf16 on the CPU, a pretrained encoder,
augmentation of whole batches, averaged weights, a schedule by the clock, and a state from which a stopped training
goes on.

The steps, each a module: :mod:`~ai_engine.training.cases` (what there is to learn from, and who is kept apart),
:mod:`~ai_engine.training.prepare` (NIfTI to nnU-Net's preprocessed folder), :mod:`~ai_engine.training.augment`,
:mod:`~ai_engine.training.trainer`, :mod:`~ai_engine.training.report` (curves), :mod:`~ai_engine.training.package`.
"""
