"""Makes the templates of a document cache: a form of documents gets one at its second document, as most come once."""

from dataclasses import replace

from graphql import GraphQLSchema

from app.graphql.bounds.costs import Costs
from app.graphql.bounds.introspection import IntrospectingExecutor
from app.graphql.compiled.plan_cache import PlanCache
from app.graphql.document_cache import DocumentCache, FormState, OperationTemplate
from app.graphql.documents import operation_of
from app.graphql.literals import Literals
from app.graphql.operation_template import Template
from app.graphql.prepared_operation import PreparedOperation


def by_template(
    schema: GraphQLSchema,
    literals: Literals,
    prepared: PreparedOperation,
    operation_name: str | None,
    cache: DocumentCache,
) -> PreparedOperation:
    """The prepared operation of a document, by the template of its form if it gets one now.

    Equal subscriptions share the operation of their document, and introspection is cached with its literals.
    """
    if prepared.operation_type == "subscription" or prepared.executor is IntrospectingExecutor:
        return prepared
    known = cache.templates.get((operation_name, literals.form))
    if known is None:
        cache.put_template(literals, operation_name, FormState.ONCE)
    if known is not FormState.ONCE:
        return prepared
    template = Template.of(schema, prepared.document, literals)
    if template is None:
        cache.put_template(literals, operation_name, FormState.UNFIT)
        return prepared
    document, operation = template.document, operation_of(template.document, operation_name)
    made = replace(
        prepared,
        document=document,
        operation=operation,
        costs=Costs(schema, document, operation, is_template=True),
        plan_cache=prepared.plan_cache and PlanCache(document, operation, prepared.plan_cache.lru),
    )
    cache.put_template(literals, operation_name, OperationTemplate(made, template))
    return cache.filled(literals, operation_name) or prepared
