<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\Data;

use Magento\Framework\Api\AbstractSimpleObject;
use Tocsin\BreachNotification\Api\Data\ProvenancePageInterface;

/**
 * @inheritDoc
 */
class ProvenancePage extends AbstractSimpleObject implements ProvenancePageInterface
{
    /**
     * @inheritDoc
     */
    public function getItems()
    {
        return $this->_get('items') ?? [];
    }

    /**
     * @inheritDoc
     */
    public function setItems($items)
    {
        return $this->setData('items', $items);
    }

    /**
     * @inheritDoc
     */
    public function getTotalCount()
    {
        return (int)$this->_get('total_count');
    }

    /**
     * @inheritDoc
     */
    public function setTotalCount($totalCount)
    {
        return $this->setData('total_count', $totalCount);
    }
}
