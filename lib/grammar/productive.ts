import type { Expression, Rule } from "./expression";

/** Whether an expression matches any text at all. */
export type IsProductive = (expression: Expression) => boolean;

/**
 * Finds out which rules match something: one that always contains itself never ends. A text must not
 * be led into a part that nothing can complete.
 */
export function findProductive(root: Expression): IsProductive {
  const rules = rulesIn(root);
  const productive = new Set<Rule>();
  let found = new Map<Expression, boolean>();
  const isProductive = (expression: Expression): boolean => {
    let answer = found.get(expression);
    if (answer === undefined) found.set(expression, (answer = decide(expression)));
    return answer;
  };
  const decide = (expression: Expression): boolean => {
    switch (expression.kind) {
      case "character":
        return expression.ranges.length > 0;
      case "sequence":
        return expression.parts.every(isProductive);
      case "choice":
        return expression.options.some(isProductive);
      case "repeat":
        return expression.min === 0 || isProductive(expression.body);
      case "rule":
        return productive.has(expression.rule);
      case "machine":
        return true;
    }
  };
  for (let known = -1; known < productive.size;) {
    known = productive.size;
    found = new Map();
    for (const rule of rules) if (isProductive(rule.body)) productive.add(rule);
  }
  found = new Map();
  return isProductive;
}

function rulesIn(root: Expression): Set<Rule> {
  const rules = new Set<Rule>();
  const visited = new Set<Expression>();
  const visit = (expression: Expression): void => {
    if (visited.has(expression)) return;
    visited.add(expression);
    if (expression.kind === "sequence") expression.parts.forEach(visit);
    else if (expression.kind === "choice") expression.options.forEach(visit);
    else if (expression.kind === "repeat") visit(expression.body);
    else if (expression.kind === "rule") {
      rules.add(expression.rule);
      visit(expression.rule.body);
    }
  };
  visit(root);
  return rules;
}
