-- A permit of what a patient wrote themselves opened all that refers to the patient (src/access/gate.rs). Of the tests of a criterion that one alone names a
-- resource that is referred to without naming the resource itself. What is left of the criterion is the fact that the patient is the author.
DELETE FROM rule_part WHERE kind = 4
    AND NOT EXISTS (SELECT 1 FROM rule_part i WHERE i.consent = rule_part.consent AND i.node = rule_part.node AND i.part = rule_part.part AND i.kind = 3 AND i.value = rule_part.value)
    AND EXISTS (SELECT 1 FROM rule r WHERE r.consent = rule_part.consent AND r.node = rule_part.node AND r.precedence IN (1, 3));
