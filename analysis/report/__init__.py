"""HTML pages and their charts."""

__all__ = ["charts", "data_charts", "gallery", "html", "page", "palette", "pareto_chart", "pseudo", "tables"]
