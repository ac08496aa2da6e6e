"""On the path of every process of a chaos run: writes down what each reply of an engine cost, lost or kept."""

import importlib.abc
import importlib.util
import os
import sys


class _Meter(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):  # type: ignore[no-untyped-def]
        if name != "ultraif_ray.engine.protocol":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):  # type: ignore[no-untyped-def]
            run(module)
            plain = module.Reply.__init__

            def counted(reply, *args, **kwargs):  # type: ignore[no-untyped-def]
                plain(reply, *args, **kwargs)
                with open(f"{os.environ['ULTRAIF_MADE']}/{os.getpid()}", "a") as file:
                    file.write(f"{reply.generated_tokens}\n")

            module.Reply.__init__ = counted

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("ULTRAIF_MADE"):
    sys.meta_path.insert(0, _Meter())
