"""What a mistake costs the shop: a metric of one's own.

oleaster evaluate quickstart/intent -d examples/support/test.jsonl \\
    --plugins examples/support/costs.py --metrics cost_per_request
"""

from oleaster.evaluation.metrics import metrics
from oleaster.evaluation.tally import mean

COSTS = {
    ("speak_to_human", "*"): 12.0,  # an angry customer who goes round in circles
    ("cancel_order", "track_order"): 9.0,  # the parcel leaves the house and comes back
    ("*", "cancel_order"): 30.0,  # an order is cancelled that was wanted
}
"""(wanted, answered) -> EUR; * is any other intent."""
OTHER = 2.0
"""Any other mistake: a colleague passes the request on."""


@metrics.register("cost_per_request")
def cost_per_request(predictions, references):
    """Mean cost of a request in EUR; lower is better. Misleads when the prices do, or the mix of requests changes."""
    pairs = zip(references, predictions, strict=True)
    return mean([cost(wanted, answered.strip()) for wanted, answered in pairs], "EUR", lower_is_better=True)


def cost(wanted, answered):
    """The price of answering a request with this intent."""
    if answered == wanted:
        return 0.0
    prices = (COSTS.get(pair) for pair in ((wanted, answered), ("*", answered), (wanted, "*")))
    return next((price for price in prices if price is not None), OTHER)
