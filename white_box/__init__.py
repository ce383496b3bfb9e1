"""Distillation on the insides of a teacher, for teachers whose insides are at hand.  `white_box.losses` has it."""
