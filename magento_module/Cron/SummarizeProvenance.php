<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Cron;

use Tocsin\BreachNotification\Model\SummarizeProvenance as Summarize;

/**
 * Keeps the summary attributes of customers in step with the provenance table.
 */
class SummarizeProvenance
{
    private Summarize $summarize;

    public function __construct(Summarize $summarize)
    {
        $this->summarize = $summarize;
    }

    public function execute(): void
    {
        $this->summarize->execute();
    }
}
