/**
 * The metrics of all workers as one text, each sample with the label `device`.
 * @param texts in Prometheus's format, by device.
 */
export function mergeMetrics(texts: ReadonlyMap<string, string>): string {
  /** By name: lines about the metric, and its samples. */
  const families = new Map<string, { readonly about: string[]; readonly samples: string[] }>();
  for (const [device, text] of texts) {
    let family: ReturnType<(typeof families)["get"]>;
    let isFirst = false;
    for (const line of text.split("\n")) {
      const [, name] = /^# HELP (\S+)/.exec(line) ?? [];
      if (name !== undefined) {
        isFirst = !families.has(name);
        if (isFirst) families.set(name, { about: [], samples: [] });
        family = families.get(name);
      }
      if (line === "" || family === undefined) continue;
      if (!line.startsWith("#")) family.samples.push(line.replace("{", `{device="${device}",`));
      else if (isFirst) family.about.push(line);
    }
  }
  return [...families.values()]
    .map(({ about, samples }) => [...about, ...samples, ""].join("\n"))
    .join("\n");
}
