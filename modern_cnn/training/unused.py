"""Options of a config that do nothing beside the others. A run names them, because its user expects that they do."""
from modern_cnn.data.color import RGB_ONLY
from modern_cnn.data.spec import Spec
from modern_cnn.settings import FIELDS, Settings, flatten
from modern_cnn.training.program import Plan

# The fields on the left do something only if the field on the right has one of the values, or begins with 'folder:'.
_ONLY = {
    ("optimizer.momentum", "optimizer.nesterov"): ("optimizer.name", ("sgd", "lars", "muon")),
    ("optimizer.epsilon", "optimizer.epsilon_hat"): ("optimizer.name", ("adam", "adamw")),
    ("optimizer.muon_rate", "optimizer.muon_momentum"): ("optimizer.name", ("muon",)),
    ("schedule.milestones", "schedule.factor"): ("schedule.name", ("step",)),
    ("data.layout",): ("data.source", ("folder:",)),
    ("data.skip_damaged",): ("data.source", ("folder:", "csv:")),
}


def unused(settings: Settings, spec: Spec, plan: Plan) -> list[str]:
    """Return a line for each option that is set and does nothing."""
    flat = flatten(settings)
    changed = {name for name, field in FIELDS.items() if flat.get(name) != field.default}
    lines = [f"config.{name}={flat[name]!r} does nothing with config.{decides}={flat[decides]!r}"
             for names, (decides, values) in _ONLY.items() for name in names if name in changed
             and not any(flat[decides].startswith(value) if value.endswith(":") else flat[decides] == value
                         for value in values)]
    if spec.image_shape[2] != 3:  # lighting is a part of AlexNet's recipe, whatever the images are
        lines += [f"config.augment.{name}={flat[f'augment.{name}']} does nothing to grey images"
                  for name in sorted({*RGB_ONLY} - {"lighting"}) if f"augment.{name}" in changed]
    if settings.schedule.name == "step" and not any(epoch < settings.epochs
                                                    for epoch in settings.schedule.milestones):
        lines.append(f"the learning rate never falls: of config.schedule.milestones={settings.schedule.milestones} "
                     f"none lies before the end of the {settings.epochs} epochs")
    if settings.max_steps > plan.total_steps:
        lines.append(f"config.max_steps={settings.max_steps:,} does nothing: config.epochs={settings.epochs} are "
                     f"{plan.total_steps:,} steps")
    return lines
