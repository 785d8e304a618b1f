"""The control without distillation: students trained end to end inside a CGN."""
