"""The recipe of the embedded checkpoint; `weights/emoji/README.md` says which command follows which."""
