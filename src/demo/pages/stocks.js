import { Connection, byId, element, parsed, showError } from "./connection.js";

const POINTS = 60;
const WIDTH = 120;
const HEIGHT = 28;
const SVG = "http://www.w3.org/2000/svg";

const money = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
// By symbol: its row and the prices of the last minute.
const rows = new Map();

const connection = new Connection("/stocks", {
  needs: [byId("subscribe")],
  onOpen: subscribe,
  onMessage(data) {
    const { prices, error } = parsed(data);
    if (error) showError(error);
    if (prices) show(prices);
  },
});

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  subscribe();
});

function subscribe() {
  showError("");
  const stocks = byId("symbols").value.toUpperCase().split(/[\s,;]+/).filter(Boolean);
  connection.send(JSON.stringify({ stocks }));
}

function show(prices) {
  for (const [symbol, { row }] of rows) {
    if (Object.hasOwn(prices, symbol)) continue;
    row.remove();
    rows.delete(symbol);
  }
  for (const [symbol, price] of Object.entries(prices)) update(symbol, price);
  byId("empty").hidden = rows.size > 0;
}

function update(symbol, price) {
  const stock = rows.get(symbol) ?? addRow(symbol);
  const before = stock.history.at(-1);
  stock.history.push(price);
  if (stock.history.length > POINTS) stock.history.shift();
  stock.price.textContent = money.format(price);
  stock.line.setAttribute("points", pointsOf(stock.history));
  if (before === undefined || before === price) return;
  const change = price - before;
  const percent = (100 * change) / before;
  stock.row.className = change > 0 ? "up" : "down";
  stock.change.textContent = `${change > 0 ? "▲ +" : "▼ −"}${money.format(Math.abs(change))} (${Math.abs(percent).toFixed(2)} %)`;
}

function addRow(symbol) {
  const row = document.createElement("tr");
  row.dataset.symbol = symbol;
  row.dataset.testid = `price-${symbol}`;
  const name = element("th", "", symbol);
  name.scope = "row";
  const price = element("td", "number price");
  const change = element("td", "number change", "–");
  const trend = element("td", "trend");
  const chart = document.createElementNS(SVG, "svg");
  chart.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  chart.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "polyline");
  chart.append(line);
  trend.append(chart);
  row.append(name, price, change, trend);
  byId("prices").append(row);
  const stock = { row, price, change, line, history: [] };
  rows.set(symbol, stock);
  return stock;
}

// The newest price is at the right edge, and the highest and the lowest touch the top and the bottom.
function pointsOf(history) {
  const low = Math.min(...history);
  const range = Math.max(...history) - low || 1;
  const step = (WIDTH - 4) / (POINTS - 1);
  const left = WIDTH - 2 - (history.length - 1) * step;
  return history
    .map((price, at) => {
      const y = HEIGHT - 2 - ((price - low) / range) * (HEIGHT - 4);
      return `${(left + at * step).toFixed(1)},${y.toFixed(1)}`;
    })
    .join(" ");
}
