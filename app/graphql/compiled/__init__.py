"""Compiled reads: a selection becomes one SQL statement, and its rows become the response without objects between.

`./scripts/bench reads` shows what they buy: requests a second against resolvers of Strawberry over rows of SQLModel.
They lean on internals of graphql-core (`Executor`, `collect_subfields`, `build_resolve_info`) and strawberry-graphql
(field definitions), whose versions `pyproject.toml` bounds. `tests/graphql/compiled` compares their responses with
those of execution field by field.

- `declare.py`  Fields of GraphQL types say which columns, functions of columns or relations they are.
- `selection.py`  The compiler makes a plan of the selection below a root field, once per document.
- `plan.py`  A plan names the columns of tables that a statement reads, and shapes their rows.
- `values.py`  A shape is a Python function that is made from the selection.
- `statements.py`  A plan becomes SQL with the viewer's scope inside: to-one relations are joins, each nested connection
  or list is one more statement for all its parents. Account, time, cursors, page size and values of filters are
  parameters.
- `plan_cache.py`  Plans and statements are cached with their document.
- `reads.py`  Resolvers call `connection`, `read_one` and `json_writer`; subscriptions call `read_selected`.
- `partial.py`  Fields with resolvers of their own are left to the executor.
- `executor.py`  The executor takes ready values as they are.

A selection that cannot be compiled raises `NotCompiled`, and is executed field by field.
"""
