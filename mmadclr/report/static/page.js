(function () {
  'use strict';
  const report = JSON.parse(document.getElementById('report-data').textContent);
  const several = report.names.length > 1;
  const HEIGHT = 190, COLORS = 8;
  const plots = [];

  function color(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function short(value) {
    if (value === null || value === undefined) return '–';
    const size = Math.abs(value);
    if (size === 0) return '0';
    if (size < 0.001) return value.toExponential(1).replace('e-', 'e−');
    if (size >= 10000) return Math.round(value).toLocaleString('en-US');
    return String(Number(value.toPrecision(4)));
  }

  function range(limit) {
    return function (plot, low, high) {
      if (low === null || high === null) return [0, 1];
      if (limit !== null) { low = Math.min(low, limit); high = Math.max(high, limit); }
      if (low === high) {
        const pad = Math.abs(low) * 0.2 || 1;
        return low === 0 ? [0, 1] : [low - pad, high + pad];
      }
      const pad = (high - low) * 0.06;
      return [low >= 0 && low < 0.35 * high ? 0 : low - pad, high + pad];
    };
  }

  function slot(chart, index) {
    return (several ? Math.max(0, report.names.indexOf(chart.curves[index].label)) : index) % COLORS;
  }

  function aligned(chart) {
    return uPlot.join(chart.curves.map(function (curve) { return [curve.x, curve.y]; }),
      chart.curves.map(function (curve) { return [2]; }));
  }

  function dashed(limit) {
    return function (plot) {
      if (limit === null) return;
      const y = Math.round(plot.valToPos(limit, 'y', true)), box = plot.bbox, pen = plot.ctx;
      if (y < box.top || y > box.top + box.height) return;
      pen.save();
      pen.strokeStyle = color('--bad');
      pen.globalAlpha = 0.7;
      pen.lineWidth = devicePixelRatio;
      pen.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
      pen.beginPath();
      pen.moveTo(box.left, y);
      pen.lineTo(box.left + box.width, y);
      pen.stroke();
      pen.restore();
    };
  }

  function axis(label, size, values) {
    return {
      stroke: color('--soft'), font: '12px system-ui, sans-serif', labelFont: '12px system-ui, sans-serif',
      label: label, labelSize: label ? 16 : 0, size: size, space: label ? 60 : 36,
      grid: { stroke: color('--grid'), width: 1 }, ticks: { show: false },
      values: function (plot, marks) { return marks.map(values); }
    };
  }

  function legend(chart) {
    const line = document.createElement('p'), values = [];
    line.className = 'legend';
    const place = document.createElement('span');
    chart.curves.forEach(function (curve, index) {
      const item = document.createElement('span'), key = document.createElement('i'), value = document.createElement('b');
      key.className = 'line c' + slot(chart, index);
      item.append(key, curve.label, value);
      line.append(item);
      values.push(value);
    });
    line.append(place);
    place.style.color = 'var(--soft)';
    return { line: line, place: place, values: values };
  }

  function latest(column, index) {
    for (let i = index; i >= 0; i--) if (column[i] !== null && column[i] !== undefined) return column[i];
    return null;
  }

  function tell(parts, chart) {
    return function (plot) {
      const index = plot.cursor.idx, data = plot.data, end = data[0].length - 1;
      const at = index === null || index === undefined ? end : index;
      parts.values.forEach(function (value, i) { value.textContent = short(latest(data[i + 1], at)); });
      parts.place.textContent = 'at ' + chart.axis + ' ' + short(data[0][at]);
    };
  }

  function draw(box) {
    const chart = report.charts[Number(box.dataset.chart)], parts = legend(chart), data = aligned(chart);
    box.textContent = '';
    const update = tell(parts, chart);
    const points = { show: data[0].length <= 40, size: 5 };
    const plot = new uPlot({
      width: Math.max(200, box.clientWidth), height: HEIGHT, padding: [8, 12, 0, 0],
      legend: { show: false }, cursor: { y: false, drag: { x: true, y: false } },
      scales: { x: { time: false, range: xRange }, y: { range: range(chart.limit) } },
      axes: [axis(chart.axis, 26, short), axis(null, 48, short)],
      series: [{}].concat(chart.curves.map(function (curve, index) {
        const stroke = color('--c' + slot(chart, index));
        return { label: curve.label, stroke: stroke, width: 1.75, spanGaps: false,
          points: Object.assign({ stroke: stroke, fill: stroke }, points) };
      })),
      hooks: { draw: [dashed(chart.limit)], setCursor: [update], ready: [update] }
    }, data, box);
    box.append(parts.line);
    return plot;
  }

  function xRange(plot, low, high) {
    if (low === null) return [0, 1];
    return low === high ? [low - 1, high + 1] : [low, high];
  }

  function drawAll() {
    plots.splice(0).forEach(function (plot) { plot.destroy(); });
    document.querySelectorAll('.plot').forEach(function (box) { plots.push(draw(box)); });
  }

  function resize() {
    plots.forEach(function (plot) {
      const width = Math.max(200, plot.root.parentNode.clientWidth);
      if (width !== plot.width) plot.setSize({ width: width, height: HEIGHT });
    });
  }

  function slide(box) {
    const slider = box.querySelector('input'), label = box.querySelector('output');
    const moments = JSON.parse(box.dataset.frames), figures = Array.from(box.querySelectorAll('figure'));
    if (!slider) return;
    function show() {
      const moment = Number(slider.value);
      label.textContent = moments.labels[moment];
      slider.setAttribute('aria-valuetext', moments.labels[moment]);
      figures.forEach(function (figure, i) {
        Array.from(figure.querySelectorAll('img')).slice(1).forEach(function (picture, kind) {
          picture.src = moments.frames[moment][i][kind];
        });
      });
    }
    slider.addEventListener('input', show);
    show(); // a browser may keep the position of a slider when a page is loaded again
  }

  drawAll();
  document.querySelectorAll('.features').forEach(slide);
  window.addEventListener('resize', resize);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawAll);
})();
