"""Names that settings had before: a command or a yaml that still uses one is refused with the new name.

A key is what a user writes: a dotted path from the config's root, or `group=choice` for a file of a group.
"""

from __future__ import annotations

RENAMED_KEYS: dict[str, str] = {
    # U-GAT-IT: the field's word is discriminator; one word for one thing
    "pair.translator.judge_width": "pair.translator.discriminator_width",
    "pair.translator.judge_limit": "pair.translator.discriminator_max_width",
    "pair.translator.judge_rate": "pair.translator.discriminator_lr",
    "pair.translator.outside": "pair.translator.background_cycle",
    "pair.translator.person_from": "pair.translator.face_identity_from",
    "pair.translator.weights.identity": "pair.translator.weights.identity_mapping",
    "pair.translator.weights.person": "pair.translator.weights.face_identity",
    "pair.translator.weights.smooth": "pair.translator.weights.mask_tv",
    "pair.translator.weights.edge": "pair.translator.weights.edge_promotion",
    "pair=drawn": "pair=cartoon",
    # style: one recipe for the published settings, and one name for each thing that is read off a face
    "style/recipe=auto": "style/recipe=published style.preset=auto",
    "style/recipe=paper256": "style/recipe=published style.preset=paper256",
    "style/recipe=paper512": "style/recipe=published style.preset=paper512",
    "style/recipe=paper1024": "style/recipe=published style.preset=paper1024",
    "style/recipe=stylegan2": "style/recipe=published style.preset=stylegan2",
    # data: people are rendered in three dimensions, no longer painted
    "data=painted": "data=rendered",
    "experiment=painted-64": "experiment=rendered-64",
    "experiment=painted-128": "experiment=rendered-128",
    "experiment=painted-256": "experiment=rendered-256",
    # student
    "student.student": "student.model",
    "student.seed": "student.train.seed",
    "student.model.weights.edge": "student.model.weights.edge_gain",
    "student.model.weights.blurred": "student.model.weights.edge_promotion",
}
