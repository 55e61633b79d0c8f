"""The ops, one package each: the contract in __init__.py, each backend in the module of its name. See ARCHITECTURE.md."""
