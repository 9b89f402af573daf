"""The command `modern-cnn`, or `python -m modern_cnn`: every script of scripts/ is a subcommand of it."""
import ast
import os
import runpy
import sys

from modern_cnn import runtime


def main() -> None:
    """Run the script that the first argument names, with the other arguments as its flags."""
    scripts = {path.stem: path for path in sorted((runtime.tree() / "scripts").glob("[a-z]*.py"))}
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "--helpshort", "--helpfull", "help"):
        heads = {each: (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
                 for each, path in scripts.items()}
        try:
            print("usage: modern-cnn COMMAND [--flag=value ...]   (modern-cnn COMMAND --help lists its flags)\n",
                  *(f"  {each:16}{head}" for each, head in heads.items()), sep="\n", flush=True)
        except BrokenPipeError:  # who reads it has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        return
    if name not in scripts:
        print(f"error: there is no command {name!r}; the commands are {', '.join(scripts)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [os.fspath(scripts[name]), *rest]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
